"""Send one event to the relay over HTTP. Needs the standard library only."""

import http.client
import json
import time
import uuid


def send(event_type, **fields):
    """Return whether the event is stored. Raise ValueError if it is rejected."""
    source = {"platform": "tv", "device_id": "A1B2C3D4-E5F6-7890-ABCD-EF1234567890"}
    event = {"event_id": str(uuid.uuid4()), "event_type": event_type, "tenant_id": 2, "source": source, **fields}
    body = json.dumps(event)
    for attempt in range(6):
        relay = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
        try:
            relay.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
            response = relay.getresponse()
            if response.status == 202:
                return True
            if response.status not in (408, 503):
                raise ValueError(response.read().decode())
        except (OSError, http.client.HTTPException):
            pass
        finally:
            relay.close()
        time.sleep(2**attempt)
    return False


send("python.sent", context={"answer": 42})
