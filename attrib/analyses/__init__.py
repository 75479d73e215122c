"""The list of analyses. Each is a frozen dataclass; its fields are the options of the Python call and the command."""

from typing import NamedTuple


class Listed(NamedTuple):
    """An analysis in ``attrib/analyses/NAME.py``."""

    kind: str
    """Its class, a public name of ``attrib``."""
    question: str
    """Its line in ``attrib --help`` and the title of its section in the report."""


ANALYSES = {
    "span": Listed("Span", "How much of the image does each model use?"),
    "maps": Listed("Maps", "What does each model look at in a few images?"),
    "sets": Listed("Sets", "Which images does an attack turn?"),
    "contrib": Listed("Contributions", "How are contributions distributed over features?"),
    "fc": Listed("LastLayer", "How many weights of the last layer are valid?"),
    "robust": Listed("Robustness", "How accurate is each model under attack?"),
    "check": Listed("Checks", "Can the maps be trusted?"),
    "evolve": Listed("Evolution", "How do accuracy, maps and contributions change over the epochs of a run?"),
    "relate": Listed("Relation", "Does coverage go with robustness?"),
}
"""The analyses by name: that of the command and of the files."""
