"""Describing: a picture, a folder or a table of them in; a caption for each, beside its own picture."""

import base64
import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.flows.tidemill import Tidemill, summary
from tests.flows.wire import wire
from tests.pictures import SECRET, encoded, full_of_secrets, hostile, photo, write
from tidemill.simulator import Simulator, prompt_hash, reply_tag

HTTP = ("--transport", "http")
PROMPT = "What is in it?"
ASKED = ("--prompt", PROMPT, *HTTP)


def jpeg(seed: int) -> bytes:
    return encoded(photo(96, 64, seed), "JPEG")


@pytest.fixture
def photos(folder: Path) -> Path:
    """Four pictures, the last a copy of the first; a folder in the folder with a fifth."""
    made = folder / "photos"
    (made / "deep").mkdir(parents=True)
    write(made, {"a.jpg": jpeg(1), "b.png": encoded(photo(80, 80, 2), "PNG"), "c.jpg": jpeg(3), "d.jpg": jpeg(1)})
    write(made / "deep", {"e.jpg": jpeg(5)})
    return made


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sent_urls(user: Tidemill) -> dict[str, str]:
    """Path -> the data URL that was sent, from the request and the store."""
    blobs = Path(user.environment["TIDEMILL_HOME"]) / "blobs"
    found = {}
    for (request,) in user.query("SELECT request FROM jobs"):
        picture = json.loads(request)["picture"]
        if "sha256" in picture:
            content = (blobs / picture["sha256"][:2] / picture["sha256"]).read_bytes()
            found[picture["path"]] = f"data:image/{picture['format']};base64,{base64.b64encode(content).decode()}"
    return found


# --- one picture ---


def test_one_picture_prints_its_caption_and_nothing_else(anywhere: Tidemill, photos: Path) -> None:
    ran = anywhere("describe", photos / "a.jpg", *ASKED, "--new").ok()
    assert re.fullmatch(r".*\[#[0-9a-f]{8}\]\n", ran.out)
    assert ran.said == ""


def test_one_file_that_is_no_picture_is_said_once(tidemill: Tidemill, photos: Path) -> None:
    (photos / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    ran = tidemill("describe", "photos/page.jpg", *HTTP)
    assert (ran.code, ran.out) == (1, "")
    sentence = "photos/page.jpg: is HTML; convert it to JPEG or PNG first. (unsupported_format)"
    assert ran.err == f"tidemill: {sentence}\n"


# --- a folder ---


def test_every_picture_gets_the_caption_of_its_own(tidemill: Tidemill, photos: Path, simulator: Simulator) -> None:
    ran = tidemill("describe", "photos", "-r", "-o", "captions.csv", *ASKED).ok()
    assert re.match(summary(5, 5), ran.last_line)
    rows = table(tidemill.folder / "captions.csv")
    names = ["a.jpg", "b.png", "c.jpg", "d.jpg", "deep/e.jpg"]
    assert [row["path"] for row in rows] == [f"photos/{name}" for name in names]
    urls = sent_urls(tidemill)
    assert all(row["reply"].endswith(reply_tag(PROMPT, urls[row["path"]])) for row in rows)
    # d.jpg is a.jpg: one call, a row and a dialogue each
    assert simulator.paid_by_prompt() == {prompt_hash(PROMPT, url): 1 for url in urls.values()}
    assert [(row["attempts"], row["sentiment"] != "") for row in rows] == [("1", True)] * 3 + [("0", True), ("1", True)]
    shown = tidemill("dialogues", "search", "photos/d.jpg", "--json").ok().json
    assert "photos/d.jpg (96×64 jpeg" in tidemill("dialogues", "show", str(shown[0]["id"])).ok().out


def test_the_same_command_again_asks_only_what_is_new(tidemill: Tidemill, photos: Path, simulator: Simulator) -> None:
    tidemill("describe", "photos", "-o", "captions.csv", *ASKED).ok()
    (photos / "b.png").unlink()
    (photos / "a.jpg").rename(photos / "z.jpg")
    (photos / "new.jpg").write_bytes(jpeg(9))
    ran = tidemill("describe", "photos", "-o", "captions.csv", *ASKED).ok()
    assert "continues: 3 answered already" in ran.err
    assert [row["path"] for row in table(tidemill.folder / "captions.csv")] == [
        *("photos/c.jpg", "photos/d.jpg", "photos/new.jpg", "photos/z.jpg"),
    ]
    assert simulator.counters()["paid"] == 4


def test_hostile_files_are_a_failed_row_each_and_no_other_suffers(
    anywhere: Tidemill, photos: Path, simulator: Simulator
) -> None:
    files = hostile()
    write(photos, {f"hostile-{number}": content for number, (content, _) in enumerate(files.values())})
    os.mkfifo(photos / "pipe.jpg")
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "there-and-back").symlink_to("..")
    ran = anywhere("describe", "photos", "-o", "-", "--new", *ASKED)
    assert ran.code == 1
    rows = {row["path"]: row for row in ran.rows}
    wanted = {f"photos/hostile-{number}": code for number, (_, code) in enumerate(files.values())}
    wanted |= {"photos/pipe.jpg": "not_a_file", "photos/loop.jpg": "unreadable"}
    assert {path: row["error_code"] for path, row in rows.items() if row["status"] == "failed"} == wanted
    assert all(rows[path]["error"].startswith(f"{path}: ") and rows[path]["attempts"] == 0 for path in wanted)
    assert {path for path, row in rows.items() if row["status"] == "succeeded"} == {
        f"photos/{name}" for name in ("a.jpg", "b.png", "c.jpg", "d.jpg")
    }
    assert simulator.counters()["paid"] == 3


def test_a_mended_file_is_asked_and_a_refused_one_is_not_retried(tidemill: Tidemill, folder: Path) -> None:
    write(folder, {"one.jpg": b"not yet a picture", "two.jpg": jpeg(2)})
    command = ("describe", "one.jpg", "two.jpg", "-o", "-", *ASKED)
    assert [row["status"] for row in tidemill(*command).rows] == ["failed", "succeeded"]
    assert tidemill("retry", "latest", "--json").ok().json["retry"] == 0
    assert [row["status"] for row in tidemill(*command).rows] == ["failed", "succeeded"]
    write(folder, {"one.jpg": jpeg(1)})
    assert [row["status"] for row in tidemill(*command).ok().rows] == ["succeeded", "succeeded"]


# --- a table ---


def test_a_table_of_paths_and_urls_with_a_prompt_of_its_own(tidemill: Tidemill, photos: Path) -> None:
    (photos / "list.csv").write_text("file,title\na.jpg,The sea\nhttps://pictures.test/b.jpg?key=1,The land\n")
    with wire("A caption.") as server:
        command = ("describe", "-i", "photos/list.csv", "-o", "-", "--prompt", "{title} in {name} of {stem}?", *HTTP)
        rows = tidemill(*command, OPENAI_BASE_URL=server.url).ok().rows
    assert [(row["file"], row["title"], row["reply"]) for row in rows] == [
        ("a.jpg", "The sea", "A caption."),
        ("https://pictures.test/b.jpg?key=1", "The land", "A caption."),
    ]
    parts = sorted((body["messages"][0]["content"] for body in server.bodies), key=lambda part: part[0]["text"])
    assert parts[0][0] == {"type": "text", "text": "The land in b.jpg?key=1 of b?"}
    assert parts[0][1] == {"type": "image_url", "image_url": {"url": "https://pictures.test/b.jpg?key=1"}}
    assert parts[1][0]["text"] == "The sea in a.jpg of a?"
    assert parts[1][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("describe",), "Name pictures or a folder"),
        (("describe", "nowhere.jpg"), "nowhere.jpg does not exist"),
        (("describe", "empty"), "There is no picture in 'empty'"),
        (("describe", "empty", "--preset", "poem"), "--preset is 'poem'"),
        (("describe", "empty", "--detail", "much"), "--detail is 'much'"),
        (("describe", "empty", "--prompt", "{"), "the template cannot be read"),
        (("describe", "empty", "--sidecar", "txt", "--existing", "burn"), "--existing is 'burn'"),
        (("describe", "empty", "--gallery", "page.pdf"), "name the gallery .html"),
        (("describe", "-i", "table.csv"), "has no column with the usual name for paths"),
        (("describe", "-i", "table.csv", "--column", "path"), "has no column with the name 'path'"),
    ],
)
def test_one_sentence_and_exit_2(tidemill: Tidemill, args: tuple[str, ...], says: str) -> None:
    (tidemill.folder / "empty").mkdir()
    tidemill.write("table.csv", "colour,size\nred,2\n")
    ran = tidemill(*args)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert ran.err.count("\n") == 1


# --- what goes over the wire ---


@pytest.mark.parametrize("transport", ["sdk", "http"])
def test_both_endpoints_are_sent_a_bare_small_picture(tidemill: Tidemill, folder: Path, transport: str) -> None:
    secrets = full_of_secrets()
    write(folder, secrets)
    big = tidemill.write("big.jpg", encoded(photo(3000, 200), "JPEG"))
    options = ("--detail", "low", "--max-side", "100", "--max-tokens", "60", "--transport", transport)
    with wire() as server:
        for endpoint in ("chat", "responses"):
            command = ("describe", *secrets, big, "-o", "-", "--endpoint", endpoint, *options)
            tidemill(*command, OPENAI_BASE_URL=server.url).ok()
    assert len(server.bodies) == 2 * (len(secrets) + 1)
    for path, body in zip(server.paths, server.bodies, strict=True):
        parts = (body["input"] if path.endswith("responses") else body["messages"])[0]["content"]
        given = parts[1]["image_url"]
        url = given if isinstance(given, str) else given["url"]
        assert (parts[1] if isinstance(given, str) else given)["detail"] == "low"
        content = base64.b64decode(url.partition(",")[2])
        assert SECRET.encode() not in content
        with Image.open(io.BytesIO(content)) as image:
            assert max(image.size) <= 100
            assert url.startswith(f"data:image/{str(image.format).lower()};base64,")


def test_a_preset_asks_for_json_and_checks_it(tidemill: Tidemill, photos: Path) -> None:
    (row,) = tidemill("describe", photos / "a.jpg", "--preset", "tags", "-o", "-", *HTTP).ok().rows
    assert list(json.loads(row["reply"])) == ["tags"]
    with wire("no tags at all") as server:
        ran = tidemill("describe", photos / "b.png", "--preset", "tags", *HTTP, OPENAI_BASE_URL=server.url)
    assert (ran.code, len(server.bodies)) == (1, 3)
    assert "the reply is not JSON: no tags at all" in ran.err
    assert server.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["tags"]


# --- where captions go ---


def test_captions_go_beside_their_pictures(tidemill: Tidemill, photos: Path, simulator: Simulator) -> None:
    (photos / "a.txt").write_text("my own words")
    command = ("describe", "photos", "--sidecar", "txt", *ASKED)
    ran = tidemill(*command, "--existing", "skip").ok()
    assert "3 caption files (.txt) written" in ran.err
    assert (photos / "a.txt").read_text() == "my own words"
    assert (photos / "b.txt").read_text().endswith("]")
    assert simulator.counters()["paid"] == 3
    again = tidemill(*command).ok()
    assert "4 pictures found, each with its caption file already" in again.err
    for _ in range(2):
        tidemill(*command, "--existing", "append").ok()
    assert (photos / "a.txt").read_text().split("\n") == ["my own words", (photos / "d.txt").read_text()]
    assert simulator.counters()["paid"] == 3  # a.jpg is d.jpg: its answer is there


def test_a_cut_caption_is_in_no_file_and_a_higher_limit_asks_anew(
    tidemill: Tidemill, photos: Path, simulator: Simulator
) -> None:
    """Also: of two pictures of one name, and of a file in the way, it is said before anything is paid."""
    (photos / "a.png").write_bytes(encoded(photo(9, 9), "PNG"))
    (photos / "c.txt").symlink_to("nowhere")
    command = ("describe", "photos", "--sidecar", "txt", *ASKED)
    ran = tidemill(*command)
    assert (ran.code, "c.txt cannot be written" in ran.err) == (2, True)
    assert simulator.counters()["total"] == 0
    (photos / "c.txt").unlink()
    ran = tidemill(*command, "--max-tokens", "2").ok()
    assert "captions are a.jpg.txt, a.png.txt and so on" in ran.err
    assert "5 answers cut at the limit of tokens" in ran.err and "higher --max-tokens" in ran.err
    assert not list(photos.glob("*.txt"))
    ran = tidemill(*command, "--max-tokens", "999", "--exclude", "c.*").ok()
    assert "Left out by --exclude: 1 (c.*)." in ran.err
    assert sorted(path.name for path in photos.glob("*.txt")) == ["a.jpg.txt", "a.png.txt", "b.txt", "d.txt"]


def test_the_gallery_is_one_page_with_everything_in_it(tidemill: Tidemill, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"<b>no picture</b>")
    with wire("<script>alert(1)</script> a café") as server:
        ran = tidemill("describe", "photos", "--gallery", "page.html", *ASKED, OPENAI_BASE_URL=server.url)
    assert (ran.code, "page.html: 5 pictures" in ran.err) == (1, True)
    page = (tidemill.folder / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 4
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; a café") >= 4
    assert "<script" not in page
    assert "photos/broken.jpg" in page


def test_a_dry_run_counts_and_prices_and_sends_nothing(tidemill: Tidemill, photos: Path, simulator: Simulator) -> None:
    (photos / "broken.jpg").write_bytes(b"no")
    command = ("describe", "photos", "-r", *ASKED, "--model", "gpt-4o", "--max-tokens", "50", "--dry-run")
    told: dict[str, Any] = tidemill(*command, "--json").ok().json
    assert (told["rows"], told["same"], told["to_send"], len(told["refused"])) == (6, 1, 4, 1)
    low = next(size for size in told["sizes"] if (size["detail"], size["max_side"]) == ("low", 512))
    assert low["picture_tokens"] == 4 * 85
    assert told["most_output_tokens"] == 4 * 50
    text = tidemill(*command).ok().out
    assert "6 pictures for gpt-4o: 0 done, 4 to send" in text
    assert "the same picture again: 1" in text
    assert text.endswith("Nothing was sent.\n")
    assert simulator.counters()["total"] == 0
    assert not (Path(tidemill.environment["TIDEMILL_HOME"]) / "blobs").exists()


# --- promises ---


def test_killed_at_any_moment_every_picture_is_captioned_once(
    tidemill: Tidemill, folder: Path, simulator: Simulator
) -> None:
    simulator.control(latency_ms=100)
    # A command that is killed in its first moments is known to nobody, and the next one waits for its leases.
    tidemill.environment["TIDEMILL_LEASE_SECONDS"] = "3"
    made = folder / "many"
    made.mkdir()
    count, window, kills = 120, 20, 3
    write(made, {f"{number:03}.jpg": jpeg(number) for number in range(count)})
    command = ("describe", "many", "-o", "captions.jsonl", "--window", str(window), *ASKED)
    for kill in range(kills):
        with tidemill.started(*command) as running:
            least = 20 + 30 * kill
            running.until(lambda least=least: simulator.counters()["paid"] >= least, f"{least} are paid")  # type: ignore[misc]
            running.process.kill()
    ran = tidemill(*command).ok()
    assert re.match(summary(count, count), ran.last_line)
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    urls = sent_urls(tidemill)
    assert all(row["reply"].endswith(reply_tag(PROMPT, urls[row["path"]])) for row in rows)
    assert tidemill.query("SELECT count(*), count(DISTINCT id) FROM dialogues") == [(count, count)]
    simulator.wait_until_idle()
    assert set(simulator.paid_by_prompt()) == {prompt_hash(PROMPT, url) for url in urls.values()}
    assert simulator.counters()["paid"] - count <= kills * 2 * window


def test_workers_elsewhere_describe_what_a_command_has_submitted(alone: Tidemill, photos: Path) -> None:
    alone.environment["TIDEMILL_BLOBS_URL"] = str(alone.folder / "shared-blobs")
    told = alone("describe", "photos", "--detach", "--json", *ASKED).ok().json
    assert told["rows"] == 4
    with alone.started("worker", "--window", "8"):
        ran = alone("watch", told["batch"]).ok()
    assert re.match(summary(4, 4), ran.last_line)
    assert len(list((alone.folder / "shared-blobs").glob("??/*"))) == 3


def test_a_worker_without_the_pictures_says_so_at_start_and_in_the_row(alone: Tidemill, photos: Path) -> None:
    told = alone("describe", photos / "a.jpg", photos / "b.png", "--detach", "--json", *ASKED).ok().json
    nowhere = alone.write("no-folder", "a file")
    with alone.started("worker", "--window", "8", TIDEMILL_BLOBS_URL=str(nowhere)) as worker:
        worker.says("The pictures' store")
    empty = alone.folder / "another-folder"
    with alone.started("worker", "--window", "8", TIDEMILL_BLOBS_URL=str(empty)):
        assert alone("watch", told["batch"]).code == 1
    rows = alone("results", told["batch"]).ok().rows
    assert [row["error_code"] for row in rows] == ["picture_missing"] * 2
    assert all("TIDEMILL_BLOBS_URL" in row["error"] for row in rows)
