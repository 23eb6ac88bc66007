#!/usr/bin/env python3
"""Writes Grafana's dashboard of finetuned to grafana/dashboards/finetuned.json.

Run it after a change here, and commit both. With --check it fails where the
file differs.
"""
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).parent / "grafana/dashboards/finetuned.json"
RATE = "[$__rate_interval]"


def quantiles(name):
    """The median and the 99th percentile of a histogram."""
    return [(f"histogram_quantile({q}, sum by (le) (rate({name}_bucket{RATE})))", f"p{q * 100:.0f}")
            for q in (0.5, 0.99)]


def rate(name, by=""):
    labels = f" by ({by})" if by else ""
    return f"sum{labels} (rate({name}{RATE}))"


# Rows of panels: title, unit, [(expression, legend)].
ROWS = {
    "Overview": [
        ("Up", "none", [('up{job="finetuned"}', "{{instance}}")]),
        ("Calls a second", "reqps", [(rate("finetune_requests_total", "method"), "{{method}}")]),
        ("Errors a second", "reqps", [(rate('finetune_requests_total{code!="OK"}', "code"), "{{code}}")]),
    ],
    "Latency": [
        ("Total", "s", quantiles("finetune_classify_total_seconds")),
        ("In the queue", "s", quantiles("finetune_classify_queue_seconds")),
        ("Decoding and transform", "s", quantiles("finetune_classify_preprocess_seconds")),
        ("Forward pass", "s", quantiles("finetune_classify_compute_seconds")),
    ],
    "Batching": [
        ("Images a second", "ops", [(rate("finetune_classify_batch_images_sum"), "images")]),
        ("Images a forward pass", "none", [
            (rate("finetune_classify_batch_images_sum") + " / " + rate("finetune_classify_batch_images_count"), "mean"),
            quantiles("finetune_classify_batch_images")[1]]),
        ("Images that wait", "none", [("finetune_classify_waiting_images", "waiting"),
                                      ("finetune_classify_max_waiting_images", "limit")]),
        ("Dropped a second", "reqps", [(rate("finetune_classify_dropped_total", "reason"), "{{reason}}")]),
    ],
    "Training": [
        ("Loss", "none", [("finetune_training_loss", "{{job}} {{split}}")]),
        ("Accuracy", "percentunit", [("finetune_training_accuracy", "{{job}} {{split}}")]),
        ("Images a second", "ops", [("finetune_training_images_per_second", "{{job}}")]),
        ("Share of time that waits for data", "percentunit", [("finetune_training_data_wait_ratio", "{{job}}")]),
        ("Done", "percentunit", [("finetune_training_done_ratio", "{{job}}")]),
        ("Jobs", "none", [("finetune_jobs", "{{state}}")]),
    ],
    "Models": [
        ("In memory", "none", [("finetune_models_loaded", "models")]),
        ("Memory of models", "bytes", [("finetune_models_loaded_bytes", "bytes")]),
        ("Loads and promotions", "none", [
            (f"increase({name}_total[$__interval])", legend) for name, legend in (
                ("finetune_model_loads", "loads"), ("finetune_model_load_failures", "failures"),
                ("finetune_model_evictions", "evictions"), ("finetune_model_promotions", "promotions"))]),
    ],
    "Resources": [
        ("Server's memory", "bytes", [("process_resident_memory_bytes", "resident")]),
        ("Container's memory", "bytes", [("finetune_memory_used_bytes", "used"),
                                         ("finetune_memory_limit_bytes", "limit")]),
        ("Server's CPU cores", "none", [(rate("process_cpu_seconds_total"), "cores")]),
        ("State disk", "bytes", [("finetune_state_disk_free_bytes", "free"), ("finetune_state_disk_bytes", "size")]),
        ("GPU memory", "bytes", [("finetune_gpu_memory_free_bytes", "free"),
                                 ("finetune_gpu_memory_total_bytes", "total")]),
    ],
}


def panel(number, title, unit, queries, x, y, width):
    source = {"type": "prometheus", "uid": "prometheus"}
    return {
        "id": number, "title": title, "type": "timeseries", "datasource": source,
        "gridPos": {"x": x, "y": y, "w": width, "h": 7},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": chr(ord("A") + i), "datasource": source, "expr": expr, "legendFormat": legend}
                    for i, (expr, legend) in enumerate(queries)],
    }


def dashboard():
    panels, y = [], 0
    for row, members in ROWS.items():
        panels.append({"id": len(panels) + 1, "title": row, "type": "row", "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        per_line = min(len(members), 3 if len(members) % 3 == 0 else 4)
        width = 24 // per_line
        for i, (title, unit, queries) in enumerate(members):
            panels.append(panel(len(panels) + 1, title, unit, queries,
                                i % per_line * width, y + i // per_line * 7, width))
        y += (len(members) + per_line - 1) // per_line * 7
    return {"uid": "finetuned", "title": "finetuned", "schemaVersion": 39, "version": 1, "editable": True,
            "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "timezone": "browser",
            "templating": {"list": []}, "panels": panels}


def main():
    text = json.dumps(dashboard(), indent=1) + "\n"
    if sys.argv[1:] == ["--check"]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE}: stale, run {sys.argv[0]}")
    else:
        FILE.write_text(text)


if __name__ == "__main__":
    main()
