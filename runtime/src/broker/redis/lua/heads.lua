#!lua flags=allow-oom
-- Reads where streams are, and lets their numbering live on.
-- KEYS: the meta and the latest values of each
-- ARGV: 1 position TTL ms
-- Answer: what the meta of each holds, and the version of its newest value, 0 without any; '' for
-- nothing, and for what no script of ours has written
local heads = {}
for i = 1, #KEYS / 2 do
  local meta, latest = KEYS[2 * i - 1], KEYS[2 * i]
  local head = redis.pcall('GET', meta)
  local version = redis.pcall('HGET', latest, '#v')
  version = type(version) == 'string' and version or '0'
  heads[i] = type(head) == 'string' and head .. ' ' .. version or ''
  redis.call('PEXPIRE', meta, ARGV[1])
end
return heads
