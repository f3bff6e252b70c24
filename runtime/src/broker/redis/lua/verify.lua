-- Looks for what a publisher was told is kept, and gives the numbering up of each stream that can't
-- show that it still has it.
-- KEYS: meta and history of each stream
-- ARGV: 1 position TTL ms, 2 epoch of new numberings, then of each stream: channel, and epoch,
--       offset and mid of the publication
-- Answer: how many were given up
local given_up = 0
for i = 1, #KEYS / 2 do
  local meta, log = KEYS[2 * i - 1], KEYS[2 * i]
  local channel, known_epoch, known_offset, known_mid = unpack(ARGV, 4 * i - 1, 4 * i + 2)
  local text = redis.pcall('GET', meta)
  local epoch, offset, mid
  if type(text) == 'string' then
    epoch, offset, mid = string.match(text, '^(%x+) (%d+) (%x+) %d+$')
  end
  -- That there is no numbering any more is noticed by all by themselves.
  if epoch and not was_at(log, epoch, offset, mid, known_epoch, known_offset, known_mid) then
    roll_over(meta, log, channel, ARGV[2], offset, known_offset, ARGV[1])
    given_up = given_up + 1
  end
end
return given_up
