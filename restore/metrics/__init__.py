"""Image quality metrics, and the named protocols that papers report.

A metric is a `torchmetrics.Metric` and a yaml in `conf/metric`; `image_metric` says what is asked
of it, `selection` builds those that are chosen.
"""
