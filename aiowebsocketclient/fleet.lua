-- One report of one session of a fleet, and the answer to it: how many sockets it may hold.
--
-- Redis keeps a record for each session (a "member"), and none for a socket.  All numbers of a
-- report are absolute, so a report may be lost, come twice or come late.  A place is granted here
-- first, and its new owner is nudged afterwards: two members never race for the same place.  A
-- call does a bounded amount of work (MOST), in O(log members).
--
-- KEYS, all of one hash tag:
--   1 state    hash    the totals below, and what is known of this Redis
--   2 members  hash    a record for each member, see FIELDS
--   3 expiry   zset    members by the end of their lease, in ms
--   4 rich     zset    members by their target: granted, less what is asked back
--   5 line     zset    members that lack places: the poorest first, then first come, first served
--   6 spare    zset    members by the idle sockets that they offer
--   7 turns    list    when the last handshakes had or have their turn, the newest first
-- ARGV:
--   1 member   2 seq, growing with each report   3 lease in ms   4 limit   5 turn in ms
--   6 held: sockets of the member   7 cap: what it keeps itself to until it hears from here again
--   8 known, 9 until: what the last answer granted, and until when; 0: that lease has run out
--   10 demand: held, and the places that it lacks   11 like: the same, of what can do without
--   12 spare: idle sockets that it offers
--   13 handshakes that want a turn   14 so many handshakes may begin   15 in any span of so many ms
--   16 prefix of channels   17 'p': publish nudges, 'r': return who is nudged, 'n': nudge nobody
--   18 '1': no call on this connection to Redis was answered so far   19 now in ms, for tests
-- Returns {-1} for a report whose lease has run out, and otherwise
--   granted, target (granted, less what is asked back), until, members in line, places used,
--   ms of learning left, limit of the call before (0: none), a delay in ms for each handshake,
--   and with 'r' the list of nudged members.
-- A member leaves by a report of zeros.  Its record stays until its lease ends, to refuse what is
-- late.

local STATE, MEMBERS, EXPIRY, RICH, LINE, SPARE, TURNS = unpack(KEYS)
local call = redis.call
local floor, max, min = math.floor, math.max, math.min

-- Grants, requests, turns and dead members of one call.  Whoever is nudged continues.
local MOST = 64
-- A score is a number of places times ROOM plus a number of grants: 131,071 places are exact.
local ROOM = 68719476736

local me = ARGV[1]
local report = {
  seq = tonumber(ARGV[2]), lease = tonumber(ARGV[3]), limit = tonumber(ARGV[4]),
  turn = tonumber(ARGV[5]), held = tonumber(ARGV[6]), cap = tonumber(ARGV[7]),
  known = tonumber(ARGV[8]), valid = tonumber(ARGV[9]), demand = tonumber(ARGV[10]),
  like = tonumber(ARGV[11]), spare = tonumber(ARGV[12]), handshakes = tonumber(ARGV[13]),
  rate = tonumber(ARGV[14]), span = tonumber(ARGV[15]),
}
local wanted = max(report.demand, report.like)

local now = tonumber(ARGV[19])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
-- It was sent long ago: what it says is no longer so, and it must not look like a lost record.
if report.valid > 0 and report.valid <= now then return {-1} end

-- The state ---------------------------------------------------------------------------------------
-- used: sum of what is granted; promised: sum of what is asked back; spared: of that, sum of what
-- was offered; lacking: sum of what members in line lack; order: counts grants and arrivals in the
-- line; learn, hold: see below; run: id of the server process; limit: of the last call.
local TOTALS = {'used', 'promised', 'spared', 'lacking', 'order', 'learn', 'hold', 'limit', 'run'}
local before, state = {}, {}
for i, text in ipairs(call('HMGET', STATE, unpack(TOTALS))) do
  before[TOTALS[i]] = text
  state[TOTALS[i]] = tonumber(text or 0)
end
state.run = before.run
-- Both end within a lease, unless the clock of Redis went back.
state.learn = min(state.learn, now + report.lease)
state.hold = min(state.hold, now + report.lease)

local function save_state()
  state.limit = report.limit
  local changes = {}
  for _, name in ipairs(TOTALS) do
    local text = state[name]
    if type(text) == 'number' then text = string.format('%.0f', text) end
    if text ~= before[name] then
      changes[#changes + 1] = name
      changes[#changes + 1] = text
    end
  end
  if #changes > 0 then call('HSET', STATE, unpack(changes)) end
end

local waiting = call('ZCARD', LINE)

-- Learning: Redis may have forgotten grants, so no member gets more before all leases of that time
-- have ended.  Meanwhile all members report what they hold.
local function start_learning(ms)
  state.learn = max(state.learn, now + ms)
end

-- One of the keys may be lost, if Redis may evict keys.  Then the others mean nothing, either.
local function forget()
  call('DEL', MEMBERS, EXPIRY, RICH, LINE, SPARE)
  state.used, state.promised, state.spared, state.lacking = 0, 0, 0, 0
  waiting = 0
end

local function look_for_lost_keys()
  local members = call('HLEN', MEMBERS)
  local is_whole = call('ZCARD', EXPIRY) == members and call('ZCARD', RICH) == members
  if is_whole and (waiting > 0 or state.lacking == 0) then return end
  forget()
  start_learning(report.lease)
end

local function look_for_restart()
  local is_empty = not before.used
  if not is_empty and ARGV[18] ~= '1' then return end
  -- A user without the right to INFO gets an error, and no learning after a restart.
  local info = redis.pcall('INFO', 'server')
  local run = type(info) == 'string' and info:match('run_id:(%x+)')
  if is_empty then
    forget()
    local up = run and info:match('uptime_in_seconds:(%d+)') * 1000
    if up and up < report.lease then start_learning(report.lease - up) end
  elseif run and run ~= before.run then
    -- Another process, which may lack the last writes of the one before.
    start_learning(report.lease)
  end
  state.run = run or state.run or '?'
end

-- Records -----------------------------------------------------------------------------------------
-- granted: places; asked: of these asked back; lent: of these because they were offered; offers:
-- idle sockets offered beyond these; lacks: places that it lacks; place: in the line, 0 if it is
-- not there; order: of its last grant; since: time of that, or of getting in line with nothing;
-- seq: of the last report.
local FIELDS = {'granted', 'asked', 'lent', 'offers', 'lacks', 'place', 'order', 'since', 'seq'}
local PATTERN = '^' .. string.rep('(%d+) ', #FIELDS - 1) .. '(%d+)$'
local records, changed = {}, {}

local function record_of(member)
  local record = records[member]
  if record then return record end
  record = {}
  local text = call('HGET', MEMBERS, member)
  local numbers = text and {text:match(PATTERN)}
  for i, name in ipairs(FIELDS) do record[name] = numbers and tonumber(numbers[i]) or 0 end
  record.is_new = not text
  records[member] = record
  return record
end

local function save_records()
  local pairs_of = {}
  for member, record in pairs(changed) do
    local numbers = {}
    for i, name in ipairs(FIELDS) do numbers[i] = string.format('%.0f', record[name]) end
    pairs_of[#pairs_of + 1] = member
    pairs_of[#pairs_of + 1] = table.concat(numbers, ' ')
  end
  if #pairs_of > 0 then call('HSET', MEMBERS, unpack(pairs_of)) end
end

local nudged = {}
local function nudge(member)
  if member ~= me and not nudged[member] then
    nudged[member] = true
    nudged[#nudged + 1] = member
  end
end

-- Of members with equally many, the one whose last grant was first is the richest.
local function rank(member, record)
  call('ZADD', RICH, (record.granted - record.asked) * ROOM + ROOM - 1 - record.order, member)
  changed[member] = record
end

local function set_lacking(record, lacks)
  state.lacking = state.lacking + lacks - record.lacks
  record.lacks = lacks
end

local function line_up(member, record)
  if record.place == 0 then waiting = waiting + 1 end
  state.order = state.order + 1
  record.place = state.order
  call('ZADD', LINE, record.granted * ROOM + record.place, member)
  changed[member] = record
end

local function leave_line(member, record)
  set_lacking(record, 0)
  if record.place == 0 then return end
  waiting = waiting - 1
  record.place = 0
  call('ZREM', LINE, member)
  changed[member] = record
end

local function offer(member, record, sockets)
  if sockets == 0 and record.offers == 0 then return end
  record.offers = sockets
  if sockets > 0 then call('ZADD', SPARE, sockets, member) else call('ZREM', SPARE, member) end
  changed[member] = record
end

-- Dead members ------------------------------------------------------------------------------------
local function drop(member)
  local record = record_of(member)
  state.used = state.used - record.granted
  state.promised = state.promised - record.asked
  state.spared = state.spared - record.lent
  leave_line(member, record)
  call('HDEL', MEMBERS, member)
  call('ZREM', EXPIRY, member)
  call('ZREM', RICH, member)
  call('ZREM', SPARE, member)
  records[member], changed[member] = nil, nil
end

local function drop_dead_members()
  local newest = tonumber(call('ZREVRANGE', EXPIRY, 0, 0, 'WITHSCORES')[2])
  if newest and newest < now + report.lease / 2 then
    -- Nobody was heard for half a lease: Redis itself was away, and the members have another lease
    -- to say that they live.
    state.hold = now + report.lease
  end
  if now < max(state.learn, state.hold) then return end
  for _, member in ipairs(call('ZRANGEBYSCORE', EXPIRY, '-inf', now, 'LIMIT', 0, MOST)) do
    if member ~= me then drop(member) end
  end
end

-- The report --------------------------------------------------------------------------------------
-- Sockets are what they are, and the member opens up to its cap without asking.  Places that it was
-- granted since it heard from here last are kept as long as it has a use for them; while Redis
-- learns, its own numbers cannot be trusted so far.
local function set_granted(mine, is_learning)
  local was = mine.granted
  local kept = max(report.held, report.cap)
  local unheard = is_learning and 0 or max(0, was - report.known)
  mine.granted = kept + min(unheard, max(0, wanted - kept))
  state.used = state.used + mine.granted - was
  return max(0, was - mine.granted)
end

-- What a member gave back fulfils what was asked, offered places first.  It withdraws an offer by
-- using the socket itself.
local function settle_asked(mine, gave)
  local asked, lent = mine.asked, mine.lent
  mine.lent = min(max(0, lent - gave), report.spare)
  mine.asked = mine.lent + max(0, asked - lent - max(0, gave - lent))
  if mine.is_new then
    -- It was dropped, and its places were granted to others: it gives back first.
    mine.asked = min(mine.granted, max(0, state.used - report.limit))
  end
  -- Sockets that it offers now, and those that it is closing, are the first of what was asked.
  mine.lent = max(mine.lent, min(mine.asked, report.spare))
  state.promised = state.promised + mine.asked - asked
  state.spared = state.spared + mine.lent - lent
end

-- Ask back no more than the other members need.
local function waive(mine)
  if mine.asked == 0 then return end
  local over = max(0, state.used - report.limit)
  local others = waiting - (mine.place > 0 and 1 or 0) + over
  local shared = state.promised - state.spared
  local shares = min(mine.asked - mine.lent, max(0, shared - max(0, others - state.spared)))
  local offers = min(mine.lent, max(0, state.spared - (state.lacking - mine.lacks + over)))
  mine.asked, mine.lent = mine.asked - shares - offers, mine.lent - offers
  state.promised = state.promised - shares - offers
  state.spared = state.spared - offers
end

local function set_place(mine, was)
  if report.demand <= mine.granted then
    leave_line(me, mine)
    return
  end
  set_lacking(mine, report.demand - mine.granted)
  if mine.place == 0 then
    if mine.granted == 0 then mine.since = now end
    line_up(me, mine)
  elseif mine.granted ~= was then
    call('ZADD', LINE, mine.granted * ROOM + mine.place, me)
  end
end

local function take_report(mine, is_learning)
  local was, target = mine.granted, mine.granted - mine.asked
  local gave = set_granted(mine, is_learning)
  settle_asked(mine, gave)
  mine.seq = report.seq
  changed[me] = mine
  call('ZADD', EXPIRY, now + report.lease, me)
  set_place(mine, was)
  waive(mine)
  offer(me, mine, report.spare - mine.lent)
  if mine.is_new or mine.granted - mine.asked ~= target then rank(me, mine) end
end

-- Free places -------------------------------------------------------------------------------------
local function grant(member, record, places)
  state.used = state.used + places
  state.order = state.order + 1
  record.granted, record.order, record.since = record.granted + places, state.order, now
  rank(member, record)
  nudge(member)
end

-- A free place goes to the member that has least, and of these to the one that came first.  It
-- lines up again for the next.
local function serve_line()
  local left = MOST
  while state.used < report.limit and waiting > 0 and left > 0 do
    left = left - 1
    local member = call('ZRANGE', LINE, 0, 0)[1]
    local record = record_of(member)
    local places = 1
    if waiting == 1 then places = min(record.lacks, report.limit - state.used) end
    grant(member, record, places)
    set_lacking(record, record.lacks - places)
    if record.lacks > 0 then line_up(member, record) else leave_line(member, record) end
  end
end

local function serve_like(mine)
  if waiting > 0 then return end
  local places = min(report.like - mine.granted, report.limit - state.used)
  if places > 0 then grant(me, mine, places) end
end

-- Places that are asked back ----------------------------------------------------------------------
local function ask(member, record)
  record.asked = record.asked + 1
  state.promised = state.promised + 1
  rank(member, record)
  nudge(member)
end

-- The member that offers most; not the only one in line, which would get its own place back.
local function best_offer()
  for _, member in ipairs(call('ZREVRANGE', SPARE, 0, 1)) do
    local record = record_of(member)
    if waiting > 1 or record.place == 0 then return member, record end
  end
end

-- Offered places are asked back whatever was asked before: a place of a long call, asked back
-- earlier, may take long to come.
local function ask_for_offers(over)
  local left = MOST
  while state.spared < state.lacking + over and left > 0 do
    local member, record = best_offer()
    if not member then return end
    left = left - 1
    offer(member, record, record.offers - 1)
    if record.granted > record.asked then
      record.lent = record.lent + 1
      state.spared = state.spared + 1
      ask(member, record)
    end
  end
end

-- A place for each member in line, and all that is over the limit, is asked back of the richest.
-- It must have 2 more than the member in line, so that no place goes to and fro.  With more
-- members than places, a member with nothing gets the place of the member that has held it longest,
-- for a turn.
local function ask_the_rich(over)
  local left = MOST
  while state.promised < waiting + over and left > 0 do
    left = left - 1
    local rich = call('ZREVRANGE', RICH, 0, 0)[1]
    local record = record_of(rich)
    local more = record.granted - record.asked
    local i = state.promised - over
    if i >= 0 then
      local poor = record_of(call('ZRANGE', LINE, i, i)[1])
      more = more - poor.granted
      local is_turn = poor.granted == 0 and now - max(poor.since, record.since) >= report.turn
      if more < 2 and not (more == 1 and is_turn) then return end
    end
    if more < 1 then return end
    ask(rich, record)
  end
end

-- Turns of handshakes -----------------------------------------------------------------------------
-- A turn is a reservation: no sooner than the one before, and a span after the one `rate` before.
local function reserve_turns(reply)
  local newest, delay = tonumber(call('LINDEX', TURNS, 0) or 0), 0
  for _ = 1, min(report.handshakes, MOST) do
    local oldest = tonumber(call('LINDEX', TURNS, report.rate - 1) or -report.span)
    newest = max(now, newest, oldest + report.span)
    delay = newest - now
    call('LPUSH', TURNS, newest)
    reply[#reply + 1] = delay
  end
  call('LTRIM', TURNS, 0, report.rate - 1)
  call('PEXPIRE', TURNS, delay + report.span)
end

-- The call ----------------------------------------------------------------------------------------
look_for_restart()
look_for_lost_keys()
local mine = record_of(me)
-- The member has a lease that is not known here: Redis was emptied.
if mine.is_new and report.valid > 0 then start_learning(report.lease) end
local is_learning = state.learn > now
drop_dead_members()
-- An older report that comes late, or the same once more, changes nothing, nor does its limit.
local is_current = report.seq > mine.seq
if not is_current and state.limit > 0 then report.limit = state.limit end
if is_current then take_report(mine, is_learning) end
if not is_learning then
  serve_line()
  if is_current then serve_like(mine) end
  local over = max(0, state.used - report.limit)
  ask_for_offers(over)
  ask_the_rich(over)
end
save_records()
save_state()
if ARGV[17] == 'p' then
  for _, member in ipairs(nudged) do call('PUBLISH', ARGV[16] .. member, '') end
end

local valid = is_current and now + report.lease or tonumber(call('ZSCORE', EXPIRY, me) or 0)
local reply = {
  mine.granted, mine.granted - mine.asked, valid, waiting, state.used, max(0, state.learn - now),
  tonumber(before.limit or 0),
}
if is_current and report.handshakes > 0 then reserve_turns(reply) end
if ARGV[17] == 'r' then
  local members = {}
  for i, member in ipairs(nudged) do members[i] = member end
  reply[#reply + 1] = members
end
return reply
