"""What an edit does: to the text of the prompt, and to attention at a moment of sampling.

Every edit is linear after the softmax (M̂ = M_src · inject + M_edit · diag(keep)), so at a moment it
is a pair (inject, keep), a `MapEdit`, and each kind of edit is a transform of what the edits before
it left. Each has a module of its own; whoever plans a run knows none of them.
"""

from .base import ALIGNED, AUTOMATIC, MODES, SHARED, Aligned, Edit, Joint, Reach, SelfInjection
from .map_edit import MapEdit
from .refine import Refine
from .reweight import FACTORS_ACT, Reweight
from .word_swap import WordSwap

__all__ = [
    "ALIGNED",
    "AUTOMATIC",
    "FACTORS_ACT",
    "MODES",
    "SHARED",
    "Aligned",
    "Edit",
    "Joint",
    "MapEdit",
    "Reach",
    "Refine",
    "Reweight",
    "SelfInjection",
    "WordSwap",
]
