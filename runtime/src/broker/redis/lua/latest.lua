-- Publishes a latest value and keeps it as the newest one of its field.
-- KEYS: 1 latest values, 2 meta, 3 idempotency (may be absent)
-- ARGV: 1 channel, 2 mid, 3 field, 4 body, 5 values at most, 6 latest TTL ms, 7 idempotency TTL ms
-- Answer: epoch, offset, mid, subscribers, 1 for a duplicate; of a new value the offset is 0
-- Fields of values begin with '='. The field '#v' holds the last version: at least the server's
-- time in microseconds, so that versions grow even over an expired hash.
local channel, mid = ARGV[1], ARGV[2]

local last = redis.call('HGET', KEYS[1], '#v')
local meta = redis.call('GET', KEYS[2])
local known = remembered(KEYS[3], mid, channel)
if known then
  return known
end

local epoch, at = NO_MID, '0'
if meta then
  epoch, at = string.match(meta, '^(%x+) (%d+) ')
  if not epoch then
    return redis.error_reply('ERR malformed position')
  end
end
local time = redis.call('TIME')
local version = math.max(tonumber(last or 0) + 1, time[1] * 1000000 + time[2])
version = string.format('%.0f', version)
local entry = '1 L ' .. epoch .. ' ' .. at .. ' ' .. version .. ' ' .. mid .. '\n' .. ARGV[4]
local heard = redis.pcall('PUBLISH', channel, entry)
if type(heard) == 'table' then
  return heard -- Permission to publish is denied.
end

redis.call('HSET', KEYS[1], '#v', version, '=' .. ARGV[3], entry)
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[5]) + 1 then
  local values, oldest, oldest_version = redis.call('HGETALL', KEYS[1]), nil, math.huge
  for i = 1, #values, 2 do
    local v = tonumber(string.match(values[i + 1], '^%d+ L %x+ %d+ (%d+) ') or math.huge)
    if v < oldest_version then
      oldest, oldest_version = values[i], v
    end
  end
  redis.call('HDEL', KEYS[1], oldest)
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
remember(KEYS[3], epoch, '0', mid, ARGV[7])
return {epoch, '0', mid, heard, 0}
