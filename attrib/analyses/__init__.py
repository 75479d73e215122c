"""The analyses: one frozen dataclass each, whose fields are the options of the Python call and of the command."""

from typing import NamedTuple


class Entry(NamedTuple):
    """An analysis, which is in ``attrib/analyses/NAME.py``."""

    kind: str
    """Its class, a public name of :mod:`attrib`."""
    question: str
    """What it answers: a line of ``attrib --help``, and the title of its section in the report."""


ANALYSES = {
    "span": Entry("Span", "How much of the image does each model use?"),
    "maps": Entry("Maps", "What does each model look at in a few images?"),
    "sets": Entry("Sets", "Which images does an attack turn?"),
    "contrib": Entry("Contributions", "How are contributions distributed over features?"),
    "fc": Entry("LastLayer", "How many weights of the last layer are valid?"),
    "robust": Entry("Robustness", "How accurate is each model under attack?"),
    "check": Entry("Checks", "Can the maps be trusted?"),
    "evolve": Entry("Evolution", "How does all of that change along the epochs of a run?"),
    "relate": Entry("Relation", "Does coverage go with robustness?"),
}
"""Every analysis by its name, which is that of its command and of its files."""
