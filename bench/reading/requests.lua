-- The requests of one row, for wrk: `bench/reading/load.py` writes the file, in the order in which they are sent.
--
-- Its first line has the header lines of every request, its second the order (places in the list of targets, from
-- 0), and each further line one target: the path, and header lines of its own. Tabs stand between them.

local requests, order, count, at = {}, {}, 0, 0

local function lines_of(text)
  return (text:gsub("\t", "\r\n"))
end

function init(args)
  local file = assert(io.open(args[1]))
  local common = lines_of(file:read("*l"))
  for place in file:read("*l"):gmatch("%d+") do
    count = count + 1
    order[count] = tonumber(place) + 1
  end
  for line in file:lines() do
    local path, own = line:match("^([^\t]+)(.*)$")
    requests[#requests + 1] = "GET " .. path .. " HTTP/1.1\r\n" .. common .. lines_of(own) .. "\r\n\r\n"
  end
  file:close()
end

function request()
  at = at % count + 1
  return requests[order[at]]
end

function done(summary)
  local failed = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "bytes": %d, "statuses": %d, "broken": %d}\n',
    summary.requests, summary.duration, summary.bytes, failed.status,
    failed.connect + failed.read + failed.write + failed.timeout))
end
