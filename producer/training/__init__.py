"""Tables and stored dialogues become checked training data; fine-tunes are started, followed and changed."""
