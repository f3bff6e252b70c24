#!lua flags=allow-oom
-- The head of the scripts that can give a numbering up. Allowed when memory is short: what they
-- write is small and expires, and without it nobody could connect until there is memory again.

local NO_MID = '0000000000000000'

-- Begins a numbering behind an offset, and lets go of what is left of an earlier one.
local function begin(meta, log, epoch, offset, ttl)
  redis.call('DEL', log)
  redis.call('SET', meta, epoch .. ' ' .. offset .. ' ' .. NO_MID .. ' 0', 'PX', ttl)
end

-- Whether a numbering began before another one. All but the lowest bits tell the time.
local function is_older(epoch, other)
  return tonumber(string.sub(epoch, 1, 12), 16) < tonumber(string.sub(other, 1, 12), 16)
end

-- Whether a stream that is at `epoch`, `offset` and `mid` may have been at a place before: true or
-- false, nil when the history does not reach back to there. One of another numbering only if that
-- began later.
local function was_at(log, epoch, offset, mid, known_epoch, known_offset, known_mid)
  if epoch ~= known_epoch then
    return not is_older(epoch, known_epoch)
  end
  local back = tonumber(offset) - tonumber(known_offset)
  if back < 0 then
    return false
  end
  if back == 0 then
    return mid == known_mid
  end
  -- The entry at that place shows it, and the one behind it, which names it.
  local range = {string.format('%.0f', -back - 1), string.format('%.0f', -back)}
  local entries = redis.pcall('LRANGE', log, range[1], range[2])
  if entries.err then
    return nil
  end
  for _, entry in ipairs(entries) do
    local e, o, m, prev = string.match(entry, '^%d+ D (%x+) (%d+) (%x+) (%x+)\n')
    if e == epoch and o == known_offset then
      return m == known_mid
    end
    if e == epoch and tonumber(o) == tonumber(known_offset) + 1 then
      return prev == known_mid
    end
  end
  return nil
end

-- Gives a numbering up that has lost entries, and tells who listens. Offsets go on behind those
-- that are known. Answer: epoch, offset, mid
local function roll_over(meta, log, channel, epoch, offset, known_offset, ttl)
  if tonumber(known_offset) > tonumber(offset) then
    offset = known_offset
  end
  begin(meta, log, epoch, offset, ttl)
  -- Whoever misses it finds a numbering that does not go on from where he is.
  redis.pcall('PUBLISH', channel, '1 R ' .. epoch .. ' ' .. offset .. '\n')
  return epoch, offset, NO_MID
end
