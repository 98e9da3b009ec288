"""Put figures, tables, videos and facts of runs on one page, which needs no other file and no network.

awac report                                        the runs in runs/, to report.html
awac report runs/pen-quick-seed0 --to pen.html
awac report runs/pen-quick-seed* --figures figures --published
awac report runs --markdown                        prints the tables, too
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``awac report``."""
    runs_help = "run folders, or folders that hold some (default: runs)"
    parser.add_argument("runs", nargs="*", type=Path, default=[Path("runs")], help=runs_help)
    parser.add_argument("--to", type=Path, default=Path("report.html"), help="page to write (default: %(default)s)")
    parser.add_argument("--figures", type=Path, help="folder for the figures as PNG and SVG")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--published", action="store_true", help="draw published results for pen and door")


def run(options: argparse.Namespace) -> None:
    """Run ``awac report``."""
    from awac_pl.report.page import write_report

    tables = write_report(options.runs, options.to, figures=options.figures, compare=options.published)
    if options.markdown:
        print("\n".join(table.markdown() for table in tables))
    print(f"{options.to}  {options.to.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
