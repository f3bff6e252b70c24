#!lua flags=allow-oom
-- Reads where streams are, and lets their numbering live on.
-- KEYS: the meta of each
-- ARGV: 1 position TTL ms
-- Answer: what each holds; '' for nothing, and for what no script of ours has written
local heads = {}
for i, key in ipairs(KEYS) do
  local head = redis.pcall('GET', key)
  heads[i] = type(head) == 'string' and head or ''
  redis.call('PEXPIRE', key, ARGV[1])
end
return heads
