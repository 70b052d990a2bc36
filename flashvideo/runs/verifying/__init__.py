"""Does every path of this machine give what the plain fp32 path gives?"""

from .certificate import verify_paths
from .verdicts import GROUPS, Certificate, Limit, Verdict, check_groups

__all__ = ["GROUPS", "Certificate", "Limit", "Verdict", "check_groups", "verify_paths"]
