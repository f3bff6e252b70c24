-- Reads where a stream is, what of its history comes after an offset, and its latest values; begins
-- its numbering when it has none, or when it shows that it never was at a place that the reader
-- knows of.
-- KEYS: 1 meta, 2 history, 3 latest values
-- ARGV: 1 epoch of a new numbering, 2 position TTL ms, 3 offset, or '' for nothing of the history,
--       4 channel, 5 to 7 epoch, offset and mid of a place that the reader knows of (may be absent)
-- Answer: epoch, offset, mid, the entries after ARGV[3] that are kept, oldest first, the values
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
  local known = ARGV[5]
  if known and was_at(KEYS[2], epoch, offset, mid, known, ARGV[6], ARGV[7]) == false then
    epoch, offset, mid = roll_over(KEYS[1], KEYS[2], ARGV[4], ARGV[1], offset, ARGV[6], ARGV[2])
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
begin(KEYS[1], KEYS[2], ARGV[1], '0', ARGV[2])
return {ARGV[1], '0', NO_MID, {}, latest}
