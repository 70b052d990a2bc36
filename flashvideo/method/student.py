"""Students: Stage II models that were distilled into fewer evaluations, with a teacher's guidance in their weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .checks import check_finite_number, check_positive, shortened


@dataclass(frozen=True)
class Student:
    """What a student was made for.

    Attributes:
        num_steps: steps of Euler's rule, which are evaluations.
        shift: of the times between them.
        guidance_scale: of the teacher; the student's one branch gives what that gave with two.
    """

    num_steps: int
    shift: float
    guidance_scale: float

    @classmethod
    def from_table(cls, table: Any, where: str) -> Student:
        """The inverse of :meth:`to_table`.

        Raises:
            ValueError: another table; ``where`` is what the message calls its place.
        """
        try:
            student = cls(int(table["num_steps"]), float(table["shift"]), float(table["guidance_scale"]))
            check_positive("num_steps", student.num_steps)
            for name in ("shift", "guidance_scale"):
                check_finite_number(name, getattr(student, name))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{where} says of its student {shortened(table)} ({error}); expected num_steps, shift and "
                "guidance_scale. It is damaged, or a newer program wrote it: make it again, or update FlashVideo."
            ) from error
        return student

    def to_table(self) -> dict[str, Any]:
        """As checkpoints keep it."""
        return asdict(self)

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings that it was made for, by Stage II's names for them."""
        return {"num_steps": self.num_steps, "shift": self.shift, "guidance_scale": 1.0}

    def __str__(self) -> str:
        steps = f"{self.num_steps} evaluation{'s' * (self.num_steps > 1)}"
        return f"a student, made for {steps} and guidance 1, with guidance {self.guidance_scale:g} in its weights"


def student_of(transformer: Any) -> Student | None:
    """What a transformer says that it was distilled for; ``None``: it is no student."""
    table = getattr(getattr(transformer, "config", None), "student", None)
    return None if table is None else Student.from_table(table, "The transformer's configuration")


def check_student_guidance(student: Student | None, guidance_scale: float, guide_student: bool) -> None:
    """Raise ValueError for guidance on top of a student's own, unless it was asked for."""
    if student is not None and guidance_scale != 1 and not guide_student:
        raise ValueError(
            f"Stage II is {student}; guidance {guidance_scale:g} would guide it a second time. Take 1 (--cfg 1; cfg 1 "
            "in the node), or ask for it: --guide-student, guide_student=True, or core's CFGGuider in ComfyUI."
        )
