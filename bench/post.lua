-- The load that wrk sends; arguments after "--": templates file, first number, events per request, "json" or "ndjson".
-- Templates: two lines per device, head and tail of an event; its number stands between them as 12 hex digits.

local heads, tails, devices = {}, {}, 0
local number, per_request, joiner, before, after = 0, 1, ",", '{"events":[', "]}"

function init(args)
  local lines = io.lines(args[1])
  for head in lines do
    devices = devices + 1
    heads[devices], tails[devices] = head, lines()
  end
  number = tonumber(args[2])
  per_request = tonumber(args[3])
  wrk.headers["Content-Type"] = "application/json"
  if args[4] == "ndjson" then
    joiner, before, after = "\n", "", ""
    wrk.headers["Content-Type"] = "application/x-ndjson"
  elseif per_request == 1 then
    before, after = "", ""
  end
end

function request()
  local parts = {}
  for i = 1, per_request do
    local device = number % devices + 1
    parts[i] = heads[device] .. string.format("%012x", number) .. tails[device]
    number = number + 1
  end
  return wrk.format("POST", nil, nil, before .. table.concat(parts, joiner) .. after)
end

function done(summary, latency)
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "rejected": %d, "broken": %d, "p50_us": %d, "p99_us": %d, "max_us": %d}\n',
    summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
