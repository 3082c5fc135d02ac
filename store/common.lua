-- Shared by apply.lua and trim.lua. base begins all keys of one tenant, which are in one slot:
--   d:<id>                  record (record.go tells its layout)     h:<id>   hash: attempt number -> attempt
--   t  p:<endpoint>  y:<type>  e:<event>  s:<state>  q:<endpoint>:<state>    sorted sets of accept .. id, all of score 0
--   w                       the same, of unmatched events           b        bytes, about, of all this
-- Only deliveries that are not DELIVERED are in s and q.
local DELIVERED, UNMATCHED, PER_RECORD, PER_ATTEMPT = 5, 9, 900, 100

local function head(raw)
  local partition, sequence = struct.unpack('>I4I8', raw, 3)
  local attempt, kind = struct.unpack('>I4I2', raw, 23)
  return {
    state = raw:byte(2), partition = partition, sequence = sequence, accept = raw:sub(15, 22),
    kind = raw:sub(29, 28 + kind), first = raw:sub(29 + kind, 28 + kind + attempt),
  }
end

local function unstate(base, endpoint, state, member)
  if state ~= DELIVERED and state ~= UNMATCHED then
    redis.call('ZREM', base .. 's:' .. state, member)
    redis.call('ZREM', base .. 'q:' .. endpoint .. ':' .. state, member)
  end
end

-- erase removes all that is kept of a record, and returns how many bytes that was.
local function erase(base, id, endpoint, event, raw, old)
  local member = old.accept .. id
  local size = #raw + PER_RECORD
  if old.state == UNMATCHED then
    redis.call('ZREM', base .. 'w', member)
  else
    redis.call('ZREM', base .. 't', member)
    redis.call('ZREM', base .. 'p:' .. endpoint, member)
    redis.call('ZREM', base .. 'y:' .. old.kind, member)
    redis.call('ZREM', base .. 'e:' .. event, member)
    unstate(base, endpoint, old.state, member)
    for _, attempt in ipairs(redis.call('HVALS', base .. 'h:' .. id)) do
      size = size + #attempt + PER_ATTEMPT
    end
    redis.call('DEL', base .. 'h:' .. id)
  end
  redis.call('DEL', base .. 'd:' .. id)
  return size
end
