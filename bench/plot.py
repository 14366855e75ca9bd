#!/usr/bin/env python3
"""Draw figures.csv: each ratio against its target, over all runs that were kept.

    plot.py [OUTPUT]        OUTPUT: figures.svg, here

A dot is a ratio, the latest of its kind filled.  To the right of the line is
better than the target, by that factor.  Needs gnuplot.
"""

import csv
import os
import subprocess
import sys

BENCH = os.path.dirname(os.path.abspath(__file__))

COMMANDS = """
set terminal svg size 960,{height} font "sans,11" background "white"
set output "{output}"
set logscale x 2
set xrange [0.25:8]
set yrange [-0.5:{n}-0.5]
set xtics ("4 x worse" 0.25, "2 x" 0.5, "target" 1, "2 x" 2, "4 x better" 4)
set grid xtics lc rgb "#dddddd"
set arrow from 1, -0.5 to 1, {n}-0.5 nohead lc rgb "#888888"
set lmargin 66
set tics scale 0
set key bottom right
plot $all using 1:2 with points pt 6 ps 0.6 lc rgb "#888888" title "earlier", \\
     $last using 1:2:ytic(3) with points pt 7 ps 0.8 lc rgb "#0a6ebd" title "latest"
"""


def main():
    output = sys.argv[1] if len(sys.argv) > 1 else os.path.join(BENCH, "figures.svg")
    with open(os.path.join(BENCH, "figures.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    names = list(dict.fromkeys(row["what"] for row in rows))
    points = {name: [] for name in names}
    for row in rows:
        value, limit = float(row["value"]), float(row["limit"])
        better = value / limit if row["target"] == "at least" else limit / max(value, 1e-9)
        points[row["what"]].append(min(8, max(0.25, better)))
    data = {"all": [], "last": []}
    for place, name in enumerate(reversed(names)):
        data["all"] += [f"{better} {place}" for better in points[name][:-1]]
        data["last"].append(f'{points[name][-1]} {place} "{name}"')
    script = "".join(f"${name} << EOD\n" + "\n".join(lines or ["NaN NaN"]) + "\nEOD\n" for name, lines in data.items())
    script += COMMANDS.format(height=60 + 18 * len(names), output=output, n=len(names))
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


if __name__ == "__main__":
    main()
