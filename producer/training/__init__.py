"""Tables and stored dialogues become checked training data; fine-tunes are sent off and looked after."""
