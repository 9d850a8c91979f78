-- A random one of HOSTS hosts each time, named as loadtest/harness/table.py names them.

local hosts = tonumber(os.getenv("HOSTS"))
local format = string.format

function init(args)
   math.randomseed(20110825)
end

-- The same work whatever HOSTS is: a slower load generator would find the proxy less busy, and that
-- alone changes the cost of a request.
function request()
   local number = math.random(1000000) - 1
   local request = "GET /small HTTP/1.1\r\nHost: " .. format("h%07d.example", number) .. "\r\n\r\n"
   if number < hosts then
      return request
   end
   number = number % hosts
   return "GET /small HTTP/1.1\r\nHost: " .. format("h%07d.example", number) .. "\r\n\r\n"
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
