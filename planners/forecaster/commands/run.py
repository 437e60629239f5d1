"""`lr-env forecast run`: forecast one run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from lr_env.errors import UserError

if TYPE_CHECKING:
    from planners.forecaster.description import RunDescription


@dataclass(frozen=True)
class Run:
    """Forecast how a run goes on, from its log, or how one would go that has not begun."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A .safetensors file of lr-env forecast fit, or the name of a shipped model."""
    curve: Annotated[Path | None, arg(metavar="LOG")] = None
    """Log of the run, of any format that lr-env import reads. Without it the run has not begun."""
    names: Annotated[tuple[str, ...], arg(metavar="SIGNAL=NAME")] = ()
    """What the log calls the signals, where that is not recognized; see lr-env import."""
    task: Annotated[str | None, arg(metavar="TASK")] = None
    """Task of the catalogue, which says settings, architecture and budget."""
    budget: Annotated[int | None, arg(metavar="STEPS")] = None
    """Optimizer steps of the whole run. Default: the task's."""
    lr: Annotated[float | None, arg(metavar="RATE")] = None
    """Learning rate, or the peak of the planner's. Default: as the log has it, and then as it was last."""
    planner: Annotated[str, arg(metavar="NAME")] = "constant"
    """Schedule of the rate, e.g. cosine or wsd."""
    set: Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE")] = ()
    """Settings of the run, e.g. batch_size=64 momentum=0.9 optimizer=SGD classes=10."""
    observe: Annotated[float | None, arg(metavar="SHARE")] = None
    """Use the log up to this share of the budget only, e.g. 0.2; 0: nothing of it."""
    method: Annotated[str, arg(metavar="NAME")] = "auto"
    """auto (the best of the next four on held-out runs), both, blend, median, ode, boosting, nearest, ensemble,
    power-law or last-value."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Also write the forecast as forecast.json and a picture into this folder."""

    def run(self) -> None:
        """Print the forecast.

        Raises:
            UserError: an option is wrong, or too little is known of the run.
        """
        from lr_env.cli.parsing import writable
        from lr_env.files import write_json
        from lr_env.report.document import Block, Document, Text, plain_table
        from lr_env.report.files import draw_into
        from lr_env.report.terminal import print_document
        from lr_env.terminal import console
        from planners.forecaster.forecaster import Forecaster
        from planners.forecaster.pictures import draw_forecast

        forecaster = Forecaster.load(self.model)
        metric = forecaster.reference.metric
        run = self._described(metric)
        if self.out is not None:
            writable(self.out, "--out")
        forecast = forecaster.forecast(run, method=self.method, baselines=True)
        end = f"{forecast.median[-1]:.4g}, with 90 % between {forecast.low[-1]:.4g} and {forecast.high[-1]:.4g}"
        seen = f"after step {run.steps[-1]:g}" if len(run.steps) else "before the first step"
        rows = [(self.method, f"{forecast.median[-1]:.4g}"), *((n, f"{v:.4g}") for n, v in forecast.baselines.items())]
        blocks: list[Block] = [
            Text(f"{metric} at step {run.budget:,}, as forecast {seen}: {end}"),
            plain_table(("method", "forecast"), rows),
        ]
        if forecast.notes:
            blocks.append(Text(points=forecast.notes))
        print_document(Document("Forecast", tuple(blocks)), console())
        if self.out is not None:
            write_json(self.out / "forecast.json", forecast.to_json())
            draw_into(self.out / "forecast.png", lambda path: draw_forecast(run, forecast, metric, path))
            print(f"Picture: {self.out / 'forecast.png'}")

    def _described(self, metric: str) -> RunDescription:
        """The run out of the options."""
        import numpy as np

        from lr_env.tasks import find_task
        from planners.forecaster.description import RunDescription
        from planners.forecaster.facts import describe
        from planners.forecaster.settings import parse_settings

        steps, values, logged = self._logged(metric)
        settings = parse_settings(self.set)
        if self.task is not None:
            base = describe(find_task(self.task))
        elif self.budget is None:
            raise UserError("budget: give the optimizer steps of the whole run, --budget STEPS, or a --task")
        else:
            base = RunDescription(self.budget)
        classes = settings.pop("classes", base.classes)
        budget = base.budget if self.budget is None else self.budget
        if self.observe is not None:
            if not 0 <= self.observe <= 1:
                raise UserError(f"observe {self.observe}: give a share of the budget, from 0 to 1")
            kept = steps <= self.observe * budget if self.observe else np.zeros(len(steps), dtype=bool)
            steps, values = steps[kept], values[kept]
        return replace(
            base,
            budget=budget,
            lr=self._rates(logged, budget),
            settings={**base.settings, **settings},
            classes=None if classes is None else int(float(classes)),
            steps=steps,
            values=values,
        )

    def _logged(self, metric: str):
        """Steps and values of the metric in the log, and its rates over steps; empty without a log."""
        import numpy as np

        from lr_env.records.readers.importing import import_runs
        from lr_env.records.readers.names import parse_names
        from planners.forecaster.from_runs import METRICS

        nothing = np.zeros(0)
        if self.curve is None:
            return nothing, nothing, None
        runs, report = import_runs([self.curve], names=parse_names(self.names), val_loss_from_train=False)
        if len(runs) != 1:
            reasons = "; ".join(dict.fromkeys(left.reason for left in report.left_out)) or "no log"
            what = reasons if not runs else f"it holds {len(runs)} runs"
            raise UserError(f"{str(self.curve)!r}: {what}; give the log of one run")
        signal, convert = METRICS[metric]
        if signal not in runs[0].curves:
            raise UserError(f"{str(self.curve)!r} has no {signal}: name it with --names {signal}=NAME")
        curve = runs[0].curves[signal]
        return curve.at, convert(curve.values), runs[0].curves.get("lr")

    def _rates(self, logged, budget: int):
        """Rates of the whole run: those of the log, then the planner's; None where nothing is known of them."""
        import numpy as np

        from planners.forecaster.curves import POINTS
        from planners.forecaster.from_runs import rates_on_grid
        from planners.forecaster.schedules import planned_rates

        planned = None if self.lr is None else planned_rates(self.planner, self.lr)
        if logged is None:
            return planned
        past = rates_on_grid(logged, budget)[:-1]  # RunDescription takes the rates of equal parts
        later = np.arange(POINTS - 1) / (POINTS - 1) * budget > logged.at[-1]
        return past if planned is None else np.where(later, planned, past)
