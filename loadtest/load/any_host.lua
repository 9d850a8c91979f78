-- A random one of HOSTS hosts each time, named as loadtest/harness/table.py names them.

local hosts = tonumber(os.getenv("HOSTS"))
local format = string.format

function init(args)
   math.randomseed(20110825)
end

function request()
   local number = math.random(hosts) - 1
   local name = number < 10000 and format("h%05d.example", number) or format("h%07d.example", number)
   return "GET /small HTTP/1.1\r\nHost: " .. name .. "\r\n\r\n"
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
