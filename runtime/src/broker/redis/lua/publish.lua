-- Numbers, stores and publishes a durable entry.
-- KEYS: 1 meta, 2 history, 3 idempotency (may be absent)
-- ARGV: 1 channel, 2 mid, 3 epoch of a new numbering, 4 body, 5 entries at most, 6 bytes at most,
--       7 history TTL ms, 8 position TTL ms, 9 idempotency TTL ms, 10 '1' when asked again
-- Answer: epoch, offset, mid, subscribers, 1 for a duplicate
-- Reads come first and fail on keys of another type; then the history, then the meta: a number
-- never exists without its entry.
local channel, mid = ARGV[1], ARGV[2]

local meta = redis.call('GET', KEYS[1])
local length = redis.call('LLEN', KEYS[2])
local known = remembered(KEYS[3], mid, channel)
if known then
  return known
end

local epoch, offset, prev, bytes = ARGV[3], '0', NO_MID, 0
if meta then
  epoch, offset, prev, bytes = string.match(meta, '^(%x+) (%d+) (%x+) (%d+)$')
  if not epoch then
    return redis.error_reply('ERR malformed position')
  end
  local done = prev == mid and offset
  if not done and ARGV[10] == '1' then
    -- From the newest back. Others may have published much while no answer came.
    local last = length - 1
    while last >= 0 and not done do
      for _, entry in ipairs(redis.call('LRANGE', KEYS[2], math.max(last - 63, 0), last)) do
        local e, o, m = string.match(entry, '^%d+ D (%x+) (%d+) (%x+) ')
        if e == epoch and m == mid then
          done = o
        end
      end
      last = last - 64
    end
  end
  if done then
    return {epoch, done, mid, subscribers(channel), 0}
  end
elseif length > 0 then
  redis.call('DEL', KEYS[2])
end

offset = string.format('%.0f', tonumber(offset) + 1)
local entry = '1 D ' .. epoch .. ' ' .. offset .. ' ' .. mid .. ' ' .. prev .. '\n' .. ARGV[4]
length = redis.call('RPUSH', KEYS[2], entry)
local heard = redis.pcall('PUBLISH', channel, entry)
if type(heard) == 'table' then
  redis.call('RPOP', KEYS[2]) -- Permission to publish is denied.
  return heard
end

-- The meta counts the bytes of the history. One that expired or was evicted starts again.
bytes = length == 1 and #entry or tonumber(bytes) + #entry
while length > 1 and (length > tonumber(ARGV[5]) or bytes > tonumber(ARGV[6])) do
  bytes = bytes - #redis.call('LPOP', KEYS[2])
  length = length - 1
end
redis.call('PEXPIRE', KEYS[2], ARGV[7])
meta = epoch .. ' ' .. offset .. ' ' .. mid .. ' ' .. string.format('%.0f', bytes)
redis.call('SET', KEYS[1], meta, 'PX', ARGV[8])
remember(KEYS[3], epoch, offset, mid, ARGV[9])
return {epoch, offset, mid, heard, 0}
