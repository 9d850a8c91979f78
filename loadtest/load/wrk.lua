-- Sums a run up as one line of JSON, and with HOSTS set asks for a random one of that many names.
-- The seed is fixed: every proxy sees the same sequence.

local hosts = tonumber(os.getenv("HOSTS") or "0")
-- So many requests in one go; so long a body.
local pipeline = tonumber(os.getenv("PIPELINE") or "1")
local upload = tonumber(os.getenv("UPLOAD") or "0")

if upload > 0 then
   wrk.method = "POST"
   wrk.body = string.rep("0123456789abcdef", upload / 16)
end

if pipeline > 1 then
   local together

   function init(args)
      together = string.rep(wrk.format(), pipeline)
   end

   function request()
      return together
   end
end

if hosts > 0 then
   local format = string.format
   local target = wrk.path

   function init(args)
      math.randomseed(20110825)
   end

   -- The same work whatever HOSTS is: a slower load generator would find the proxy less busy, and that
   -- alone changes the cost of a request.
   function request()
      local number = (math.random(1000000) - 1) % hosts
      return "GET " .. target .. " HTTP/1.1\r\nHost: " .. format("h%07d.example", number) .. "\r\n\r\n"
   end
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
