-- Random hosts at a moderate pace: each connection waits about ten milliseconds between its requests,
-- so that what is measured is the time of a request and not a queue in front of a busy CPU.

local requests = {}

function init(args)
   math.randomseed(20110825)
   for number = 0, 9999 do
      wrk.headers["Host"] = string.format("h%07d.example", number)
      requests[number + 1] = wrk.format()
   end
end

function request()
   return requests[math.random(#requests)]
end

function delay()
   return math.random(5, 15)
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      'SUMMARY {"requests": %d, "bytes": %d, "load_us": %d, "p50_us": %d, "p99_us": %d, '
         .. '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
      summary.requests, summary.bytes, summary.duration,
      latency:percentile(50), latency:percentile(99),
      errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
