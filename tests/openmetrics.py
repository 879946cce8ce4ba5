"""Reads /metrics from standard input as OpenMetrics 1.0 with Prometheus' own strict parser, and prints the exemplars of
one histogram's buckets as JSON: [{"labels", "exemplar", "value", "timestamp", "count"}]."""

import json
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = {family.name: family for family in text_string_to_metric_families(sys.stdin.read())}
found = [
    {
        "labels": sample.labels,
        "exemplar": sample.exemplar.labels,
        "value": sample.exemplar.value,
        "timestamp": float(sample.exemplar.timestamp),
        "count": sample.value,
    }
    for sample in families[sys.argv[1]].samples
    if sample.exemplar
]
others = sum(bool(sample.exemplar) for family in families.values() for sample in family.samples) - len(found)
json.dump({"found": found, "others": others, "families": len(families)}, sys.stdout)
