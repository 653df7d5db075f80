"""Two records of the same machine: how many times longer every variant takes now, and whether that is more than noise.

A variant became slower if even the fastest fifth of its runs take longer than the slowest fifth took before, and by
more than ``MARGIN``: its 20th percentile now is above ``MARGIN`` times its 80th percentile then. Where either was timed
fewer than three times, which shows no spread, ``MARGIN_OF_ONE`` holds. One that had a time and has none now counts too.
"""

MARGIN, MARGIN_OF_ONE = 1.05, 1.3


def compare(now: dict, then: dict) -> tuple[list[str], list[str]]:
    """Lines of ratios for the variants that both records have, and ``case/variant`` of those that became slower."""
    lines, slower = [f"compared with {then['commit']} of {then['date']}: time now / then"], []
    if {**now["machine"], "load": None} != {**then["machine"], "load": None}:
        lines.append("  the machines differ: ratios say nothing about the code")
    for name, case in now["cases"].items():
        for variant, result in case["variants"].items():
            before = then["cases"].get(name, {"variants": {}})["variants"].get(variant, {})
            if "median_ms" not in before:
                continue
            what = f"{name}/{variant}"
            verdict = _verdict(result, before)
            if "median_ms" in result:
                lines.append(f"  {what:44}{result['median_ms'] / before['median_ms']:7.2f}  {verdict}".rstrip())
            else:
                lines.append(f"  {what:44}      -  {verdict}")
            if verdict.startswith(("slower", "no time")):
                slower.append(what)
    return lines, slower


def _verdict(now: dict, then: dict) -> str:
    if "median_ms" not in now:
        return f"no time any more: {now}"
    margin = MARGIN if min(now["runs"], then["runs"]) >= 3 else MARGIN_OF_ONE
    if now["p20_ms"] > margin * then["p80_ms"]:
        return "slower"
    return "faster" if then["p20_ms"] > margin * now["p80_ms"] else ""
