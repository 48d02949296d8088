"""The suite ``control``: ten control tasks of one family, and an actor-critic that learns them."""
