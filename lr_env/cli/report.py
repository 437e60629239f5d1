"""`lr-env report`: the report of an experiment again, from the record store."""

from __future__ import annotations

from dataclasses import dataclass

from lr_env.cli.parsing import writable
from lr_env.cli.stored_experiment import StoredExperiment


@dataclass(frozen=True)
class Report(StoredExperiment):
    """Write the report of an experiment from the record store, also while it runs in another process.

    Of a comparison that is finished it writes all files. Of one that is not, it writes report.html with what is
    finished. Of another study it writes runs.html with the runs; the command of the study writes its report.
    """

    def run(self) -> None:
        """Write the files.

        Raises:
            UserError: there is no such store, or no experiment of that name; or it has no runs yet.
        """
        from contextlib import closing

        from lr_env.records.store import Store
        from lr_env.report.html import REPORT
        from lr_env.report.terminal import print_document
        from lr_env.report.written import write_page
        from lr_env.studies.stored import stored_report
        from lr_env.terminal import console

        folder = self.folder
        with closing(Store.reading(self.store)) as store:
            report = stored_report(store, self.name, folder)
        writable(folder)
        if report.comparison is not None:
            report.comparison.write(folder)
            print_document(report.document, console(), folder)
            print(f"Report: {folder / 'summary.md'}")
        file = folder / (REPORT if report.is_of_comparison else "runs.html")
        if report.comparison is None:
            write_page(report.document, file)
            if report.document.notice:
                print(report.document.notice.replace("**", ""))
        if not report.is_of_comparison:
            print(f"These are its runs; the command that made {self.name} writes its report, and makes no run again.")
        print(f"Page: {file}")
