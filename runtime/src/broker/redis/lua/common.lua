#!lua
-- The head of every script that publishes. The first line makes Redis refuse the script before it
-- runs when memory is short or the server is a replica, so that none fails half-way.

local NO_MID = '0000000000000000'

-- How many hear a channel; for answers to a publisher whose first answer was lost.
local function subscribers(channel)
  return redis.call('PUBSUB', 'NUMSUB', channel)[2]
end

-- What an idempotency key remembers, as the answer to `mid`; nil when it is new. A publisher that
-- finds its own mid is not a duplicate: it asks again since it never got the first answer.
local function remembered(key, mid, channel)
  if not key then
    return nil
  end
  local record = redis.call('GET', key)
  if not record then
    return nil
  end
  local epoch, offset, first = string.match(record, '^(%x+) (%d+) (%x+)$')
  if not epoch then
    return redis.error_reply('ERR malformed idempotency record')
  end
  if first == mid then
    return {epoch, offset, mid, subscribers(channel), 0}
  end
  return {epoch, offset, first, 0, 1}
end

local function remember(key, epoch, offset, mid, ttl)
  if key then
    redis.call('SET', key, epoch .. ' ' .. offset .. ' ' .. mid, 'PX', ttl)
  end
end
