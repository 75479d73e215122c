"""The analyses: one frozen dataclass each, whose fields are the options of the Python call and of the command."""
