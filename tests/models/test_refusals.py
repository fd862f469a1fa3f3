"""A refusal is told from a caption, also from one that is about being sorry."""

import pytest

from tidemill.models.refusals import is_refusal


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with identifying people in images.",
        "I’m sorry, I can’t assist with that.",
        "Sorry, I cannot describe this image.",
        "I apologize, but I am unable to provide a description of this image.",
        "Unfortunately, I'm not able to help with that request.",
        "I can't assist with that.",
        "I cannot identify the person in this picture.",
        "I'm unable to identify real people based on their features. However, the picture shows a man in a suit.",
        "I won't describe this image.",
        "As an AI language model, I cannot view images.",
        "**I'm sorry, but I can't comply with that.**",
        "\"I'm sorry, but I can't help with that.\"",
        '{"caption": "I\'m sorry, but I can\'t help with that.", "objects": []}',
        '{"tags": ["I cannot assist with that request"]}',
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Ich kann diese Person leider nicht identifizieren.",
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Désolé, je ne peux pas identifier cette personne.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, mas não posso ajudar com isso.",
        "Het spijt me, maar ik kan je daar niet mee helpen.",
        "Przykro mi, ale nie mogę w tym pomóc.",
        "Извините, но я не могу помочь с этим.",
        "很抱歉，我无法识别图片中的人物。",
        "对不起，我不能提供帮助。",
        "申し訳ありませんが、その画像については説明できません。",
        "죄송하지만 이 이미지에 대해 도와드릴 수 없습니다.",
        "Üzgünüm, bu konuda yardımcı olamam.",
    ],
)
def test_a_refusal_is_told(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A cat on a red sofa.",
        "A man looks sorry; he cannot lift the box.",
        "A sign that says: Sorry, we are closed.",
        "Sorry, we're closed",
        "Sorry, no pets allowed: a sign at a door.",
        "I ❤ NY",
        "I can do it! A poster of Rosie the Riveter.",
        "I CAN'T KEEP CALM: a printed mug.",
        "Unfortunately for the cat, the bowl is empty.",
        "I see a harbour with fishing boats.",
        "Unknown person at a desk, face not visible.",
        "An error page that reads \"I'm sorry, but I can't help with that.\"",
        '{"tags": ["a cat", "sorry", "can\'t"]}',
        '{"caption": "A cat."}',
        "{not json",
        "Es tut mir leid steht auf der Karte.",
        "Leider geschlossen: ein Schild an einer Tür.",
        "Lo siento mucho, dice la tarjeta.",
        "对不起三个字写在墙上。",
        "すみませんと書かれた看板。",
    ],
)
def test_a_caption_is_none(text: str) -> None:
    assert not is_refusal(text)
