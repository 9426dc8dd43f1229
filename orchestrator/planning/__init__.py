"""What a plan says: its command filled in, what it allows, what came of it. Pure."""
