#!lua flags=allow-oom
-- Reads where a stream is, and begins its numbering when it has none.
-- KEYS: 1 meta, 2 history
-- ARGV: 1 epoch of a new numbering, 2 position TTL ms
-- Answer: epoch, offset, mid
-- Allowed when memory is short: what it writes is small and expires, and without it nobody could
-- connect until there is memory again.
local meta = redis.call('GET', KEYS[1])
if meta then
  local epoch, offset, mid = string.match(meta, '^(%x+) (%d+) (%x+) %d+$')
  if not epoch then
    return redis.error_reply('ERR malformed position')
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {epoch, offset, mid}
end
redis.call('DEL', KEYS[2]) -- What is left of an earlier numbering.
redis.call('SET', KEYS[1], ARGV[1] .. ' 0 0000000000000000 0', 'PX', ARGV[2])
return {ARGV[1], '0', '0000000000000000'}
