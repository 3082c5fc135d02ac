-- ARGV: base, then for each delivery: id, accept, endpoint, event, settled (the least state that is). Those that were reopened or
-- came again since the caller read them stay. Returns how many are gone and how many bytes they had.
local base, removed, freed = ARGV[1], 0, 0
for i = 2, #ARGV, 5 do
  local id, accept, endpoint, event, settled = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local raw = redis.call('GET', base .. 'd:' .. id)
  if not raw then -- the server evicted the record: its entries are of no use
    redis.call('ZREM', base .. 't', accept .. id)
    redis.call('ZREM', base .. 'w', accept .. id)
  else
    local old = head(raw)
    if old.accept == accept and old.state >= settled then
      freed = freed + erase(base, id, endpoint, event, raw, old)
      removed = removed + 1
    end
  end
end
if freed > 0 then redis.call('INCRBY', base .. 'b', -freed) end
return {removed, freed}
