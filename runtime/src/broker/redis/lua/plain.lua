-- Publishes an entry that is kept nowhere, once per idempotency key.
-- KEYS: 1 idempotency
-- ARGV: 1 channel, 2 mid, 3 entry, 4 idempotency TTL ms
-- Answer: epoch, offset, mid, subscribers, 1 for a duplicate; of a new entry the offset is 0
local known = remembered(KEYS[1], ARGV[2], ARGV[1])
if known then
  return known
end
local heard = redis.pcall('PUBLISH', ARGV[1], ARGV[3])
if type(heard) == 'table' then
  return heard -- Permission to publish is denied.
end
remember(KEYS[1], NO_MID, '0', ARGV[2], ARGV[4])
return {NO_MID, '0', ARGV[2], heard, 0}
