"""What `llamune tune` does, as a script."""

import llamune

run = llamune.tune("starter", data="examples/tickets.json", name="tickets", on_event=print)
print(run.report_path.read_text(encoding="utf-8"))
print(run.record.loss.validation, run.record.scores)
