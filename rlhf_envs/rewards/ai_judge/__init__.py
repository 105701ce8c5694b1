"""Let a language model judge texts: as a reward, and as an annotator of the feedback store."""

from .annotator import Answer, JudgeAnnotator, JudgeWork, annotate, judge_items
from .asking import BudgetSpent, JudgeError, Usage
from .checking import JudgeCheck, check_judge, judges_alpha
from .judge import AIJudge, AIJudgeReward, Comparison, Rating
from .settings import JudgeSettings, read_judge_settings

__all__ = [
    "AIJudge",
    "AIJudgeReward",
    "Answer",
    "BudgetSpent",
    "Comparison",
    "JudgeAnnotator",
    "JudgeCheck",
    "JudgeError",
    "JudgeSettings",
    "JudgeWork",
    "Rating",
    "Usage",
    "annotate",
    "check_judge",
    "judge_items",
    "judges_alpha",
    "read_judge_settings",
]
