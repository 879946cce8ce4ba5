-- GCRA over one key, which holds when its bucket is full again (the theoretical arrival time), in microseconds.
-- KEYS[1]: the bucket. ARGV: microseconds one request costs, burst, requests wanted, 1 for a lease.
-- Gives: requests given, requests left, microseconds until full, microseconds until the next one would be given.

-- This server's time, not the gateways': it is one clock for all of them, however far theirs are apart.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local each, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- Never further ahead than an empty bucket: a clock set back or a burst made smaller must not shut a client out.
local empty = now + each * burst
local full_at = math.max(now, math.min(tonumber(redis.call('GET', KEYS[1]) or now), empty))

-- Half a microsecond, since what is stored was rounded.
local left = math.floor((empty - full_at + 0.5) / each)
-- A lease is at most half of what is left, so that one gateway does not hoard the end of a burst.
local given = math.min(wanted, ARGV[4] == '1' and math.floor(left / 2) or left)
if given > 0 then
  full_at = full_at + each * given
  left = left - given
  -- Gone when full: a key that is not there is a full bucket.
  redis.call('SET', KEYS[1], string.format('%.3f', full_at), 'PX', string.format('%.0f', math.ceil((full_at - now) / 1000)))
end
return { given, left, math.ceil(full_at - now), left > 0 and 0 or math.ceil(math.max(0, full_at + each - empty)) }
