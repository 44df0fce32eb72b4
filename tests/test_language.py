"""Words: American spelling, and the field's terms instead of our own, in prose and in code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATTERNS = ("mialab/**/*.py", "notebooks/*.py", "book/*.md", "tests/**/*.py", "results/*.csv", "*.md")
CHANGELOG = ROOT / "CHANGELOG.md"  # it tells old names from new ones
FILES = sorted({file for pattern in PATTERNS for file in ROOT.glob(pattern)} - {Path(__file__), CHANGELOG})

BRITISH = "|".join(
    (
        r"(?:col|neighb|behavi|fav|hon|lab|hum|vap)our(?!s? of)",
        r"grey|centre[ds]?\b|litre|fibre|defence|licence|artefact|catalogue|analogue|programme|judgement",
        r"(?:learnt|spelt|burnt|whilst|amongst|per cent)\b",
        r"\b(?:to|after|up|down|for|back)wards\b",
        r"(?:label|model|cancel|travel|signal|total|level)l(?:ed|ing)\b",
        r"\w(?:al|ar|or|er|im|om|ac|an|ab|at|ic|iv|as|ess|ogn|ect)is(?:e|ed|es|ing|ation)\b",
        r"analys(?:e|ed|es|ing)\b(?! of)",
    )
)
#: American words that look like British ones.
AMERICAN = r"(?:promis|exercis|advertis|compromis|precis|comparis|rais|chais)\w*"
#: A word of our own, which must not come back, and the term of the field for it.
RETIRED = {
    r"no figure\b": "no value",
    r"(?:published|pooled) figures?\b": "value",
    r"figures? of (?:an attack|decisions|the run)\b": "value or measure",
    r"shares? of (?:the )?(?:samples|records|pairs|members|models|answers)\b": "fraction",
    r"said_member": "predicted_member",
    r"own_chance": "rng",
    r"carry_out": "execute",
    r"\bleft_out\b": "excluded_models",
    r"\bRefused\b": "RequirementsNotMet",
    r"(?:records|copies) (?:that )?(?:are|were) asked (?!for)": "queried",
    r"membership the attacker is told": "known",
    r"mialab\.results|auditing\.(?:summary|wide|show|pooled|missing|strongest)\(": "methods of AuditTable",
}
#: Names that stay: a key of random streams, on which results depend, and a color map of matplotlib.
NAMES = ('"memorisation"', '"Greys"')


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_words(file):
    text = file.read_text()
    for name in NAMES:
        text = text.replace(name, "")
    for found in re.finditer(rf"(?i)(?:{BRITISH})", text):
        before, after = re.search(r"\w*$", text[: found.start()])[0], re.match(r"\w*", text[found.end() :])[0]
        word, line = before + found[0] + after, text.count("\n", 0, found.start()) + 1
        assert re.fullmatch(rf"(?i)\w*{AMERICAN}", word), f"line {line}: British spelling: {word}"
    for pattern, term in RETIRED.items():
        found = re.search(pattern, text)
        assert not found, f"line {text.count(chr(10), 0, found.start()) + 1}: say {term}: {found[0]}"
