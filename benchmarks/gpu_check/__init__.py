"""``python -m benchmarks.gpu_check``: is every kernel right and how fast is it, on this machine's GPU?

Six parts, each in calls that end within a deadline and go on where the last one stopped: ``install`` builds the
extensions, ``tests`` runs the cuda-marked tests and keeps the ledger of verified kernel files, ``sanitize`` runs one
case of every kernel file under compute-sanitizer, ``bench`` measures the registry, ``epoch`` an epoch of training and
``tune`` the launch tables.

All output goes into one folder: the ledger ``verified.json``, the records ``cuda.json`` of the registry and
``epoch.json``, what every part found ``gpu_check.json``, and what failing commands printed ``gpu_check.log``.
"""
