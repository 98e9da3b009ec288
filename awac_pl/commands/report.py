"""``awac report``: figures, tables, videos and facts of some runs on one page that needs nothing else."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """\
examples:
  awac report                                        the runs in runs/, to report.html
  awac report runs/pen-quick-seed0 --to pen.html
  awac report runs/pen-quick-seed* --figures figures --published
  awac report runs --markdown                        prints the tables, too
"""


def run(arguments: list[str]) -> None:
    """Run ``awac report …``.

    Raises:
        AwacError: a folder holds no run that can be reported.
    """
    parser = argparse.ArgumentParser(
        "awac report", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")],
                        help="run folders, or folders that hold some (default: runs)")  # fmt: skip
    parser.add_argument("--to", type=Path, default=Path("report.html"), help="page to write (default: %(default)s)")
    parser.add_argument("--figures", type=Path, help="folder for the figures as PNG and SVG")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--published", action="store_true", help="draw what others have published for pen and door")
    options = parser.parse_args(arguments)
    from awac_pl.report.page import write_report

    tables = write_report(options.runs, options.to, figures=options.figures, compare=options.published)
    if options.markdown:
        print("\n".join(table.markdown() for table in tables))
    print(f"{options.to}  {options.to.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
