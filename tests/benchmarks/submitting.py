"""How fast rows get into the database, without the start-up of a command. `python submitting.py PROMPTS.jsonl`.

Prints {"rows", "seconds"}: from opening the batch until its last row is committed.
"""

import json
import sys
import time

from tidemill.producer.asking.prompts import Prompts
from tidemill.producer.asking.question import make_options
from tidemill.producer.batches.order import Order
from tidemill.producer.batches.submit import open_batch, submit

if __name__ == "__main__":
    order = Order(make_options({}), Prompts(sys.argv[1]), source_name=sys.argv[1])
    began = time.monotonic()
    rows = submit(open_batch(order))
    print(json.dumps({"rows": rows, "seconds": time.monotonic() - began}))
