"""Does every path of this machine give what the plain fp32 path gives?"""

from .certificate import place_of, verify_paths
from .elsewhere import codec_verdicts, evaluation_verdict
from .verdicts import GROUPS, Certificate, Limit, Verdict, check_groups

__all__ = [
    "GROUPS",
    "Certificate",
    "Limit",
    "Verdict",
    "check_groups",
    "codec_verdicts",
    "evaluation_verdict",
    "place_of",
    "verify_paths",
]
