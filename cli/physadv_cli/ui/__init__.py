"""``physadv ui``: the journeys as forms on one local page, each a command of this program."""
