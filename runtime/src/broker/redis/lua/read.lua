#!lua flags=allow-oom
-- Reads where a stream is, what of its history comes after an offset, and its latest values; begins
-- its numbering when it has none.
-- KEYS: 1 meta, 2 history, 3 latest values
-- ARGV: 1 epoch of a new numbering, 2 position TTL ms, 3 offset, or '' for nothing of the history
-- Answer: epoch, offset, mid, the entries after ARGV[3] that are kept, oldest first, the values
-- Allowed when memory is short: what it writes is small and expires, and without it nobody could
-- connect until there is memory again.
local meta = redis.call('GET', KEYS[1])
local latest = {}
local fields = redis.call('HGETALL', KEYS[3])
for i = 1, #fields, 2 do
  if string.sub(fields[i], 1, 1) == '=' then
    latest[#latest + 1] = fields[i + 1]
  end
end
if meta then
  local epoch, offset, mid = string.match(meta, '^(%x+) (%d+) (%x+) %d+$')
  if not epoch then
    return redis.error_reply('ERR malformed position')
  end
  local entries = {}
  if ARGV[3] ~= '' then
    local count = tonumber(offset) - tonumber(ARGV[3])
    if count > 0 then
      entries = redis.call('LRANGE', KEYS[2], string.format('%.0f', -count), -1)
    end
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {epoch, offset, mid, entries, latest}
end
redis.call('DEL', KEYS[2]) -- What is left of an earlier numbering.
redis.call('SET', KEYS[1], ARGV[1] .. ' 0 0000000000000000 0', 'PX', ARGV[2])
return {ARGV[1], '0', '0000000000000000', {}, latest}
