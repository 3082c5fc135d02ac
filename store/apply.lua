-- ARGV: base, then for each delivery: id, endpoint, event, record, retold, keep, n, and n times an attempt's number and content.
-- keep is how many attempts may stand beside the record's first. An outcome that was applied before, or after which a
-- later one was, changes nothing; one that is told once more (retold is 1) changes attempts alone then.
local base, i, grown = ARGV[1], 2, 0

-- prune leaves, of the attempts beside the record, the latest ones, and the first if the record does not hold it.
local function prune(key, keep, embedded)
  local first = embedded and 0 or 1
  local extra = redis.call('HLEN', key) - keep - first
  if extra <= 0 then return end
  local numbers = redis.call('HKEYS', key)
  table.sort(numbers, function(a, b) return tonumber(a) < tonumber(b) end)
  for n = 1 + first, extra + first do
    grown = grown - redis.call('HSTRLEN', key, numbers[n]) - PER_ATTEMPT
    redis.call('HDEL', key, numbers[n])
  end
end

while i <= #ARGV do
  local id, endpoint, event, raw = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local retold, keep, n = ARGV[i + 4] == '1', tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
  i = i + 7
  local new, old = head(raw), nil
  local before = redis.call('GET', base .. 'd:' .. id)
  if before then old = head(before) end
  local apply = not (old and old.partition == new.partition and old.sequence >= new.sequence)
  if retold and old then
    apply = old.accept == new.accept
    if apply and new.first ~= '' then -- it may have been too large to be part of the record
      local key = base .. 'h:' .. id
      local was = redis.call('HSTRLEN', key, '1')
      if was > 0 then
        grown = grown - was - PER_ATTEMPT
        redis.call('HDEL', key, '1')
      end
    end
    if apply and old.sequence > new.sequence then
      raw = before
      if new.first ~= '' then
        raw = before:sub(1, 22) .. struct.pack('>I4', #new.first) .. before:sub(27, 28 + #old.kind) .. new.first
          .. before:sub(29 + #old.kind + #old.first)
      end
      new = head(raw)
    end
  end
  if apply then
    if old and old.accept ~= new.accept then -- an earlier life
      grown = grown - erase(base, id, endpoint, event, before, old)
      old = nil
    end
    local member = new.accept .. id
    if old then
      grown = grown - #before
      if new.first == '' and old.first ~= '' then
        new.first = old.first
        raw = raw:sub(1, 22) .. struct.pack('>I4', #new.first) .. raw:sub(27, 28 + #new.kind) .. new.first .. raw:sub(29 + #new.kind)
      end
      if old.state ~= new.state then unstate(base, endpoint, old.state, member) end
      if old.kind ~= new.kind then redis.call('ZREM', base .. 'y:' .. old.kind, member) end
    else
      grown = grown + PER_RECORD
    end
    redis.call('SET', base .. 'd:' .. id, raw)
    grown = grown + #raw
    if new.state == UNMATCHED then
      redis.call('ZADD', base .. 'w', 0, member)
    else
      if not old then
        redis.call('ZADD', base .. 't', 0, member)
        redis.call('ZADD', base .. 'p:' .. endpoint, 0, member)
        redis.call('ZADD', base .. 'e:' .. event, 0, member)
      end
      if not old or old.kind ~= new.kind then redis.call('ZADD', base .. 'y:' .. new.kind, 0, member) end
      if new.state ~= DELIVERED and not (old and old.state == new.state) then
        redis.call('ZADD', base .. 's:' .. new.state, 0, member)
        redis.call('ZADD', base .. 'q:' .. endpoint .. ':' .. new.state, 0, member)
      end
    end
    for a = i, i + 2 * n - 2, 2 do
      local key = base .. 'h:' .. id
      local was = redis.call('HSTRLEN', key, ARGV[a])
      if was > 0 then was = was + PER_ATTEMPT end
      redis.call('HSET', key, ARGV[a], ARGV[a + 1])
      grown = grown + #ARGV[a + 1] + PER_ATTEMPT - was
    end
    if n > 0 then prune(base .. 'h:' .. id, keep, new.first ~= '') end
  end
  i = i + 2 * n
end
if grown ~= 0 then redis.call('INCRBY', base .. 'b', grown) end
return grown
