-- Reads positions and extends their expiry: a counter with listeners never expires, because their
-- node reads it each minute. Follows position.lua.
--
-- KEYS[1]  the base
-- then     the hashes of channels
-- ARGV[1]  sixteen random hex digits, in case new epochs start here
--
-- Returns for each channel 'epoch offset' or an error reply, as publish.lua does.
local EACH_READ = 300

local function read(key)
    local epoch, offset = current_position(key, KEYS[1], ARGV[1], false)
    -- Anybody who may subscribe can cause a read, so each one extends the expiry by five minutes only:
    -- otherwise one read in two days would keep every counter that a stranger has created.
    local seconds = math.min(LISTENED, math.max(0, redis.call('TTL', key)) + EACH_READ)
    -- EXPIRE is a write, even without a key, so a replica refuses the read.
    redis.call('EXPIRE', key, seconds)
    return epoch .. ' ' .. offset
end

local answers = {}
for i = 2, #KEYS do
    local is_done, answer = pcall(read, KEYS[i])
    if not is_done and type(answer) == 'string' then
        answer = {err = answer}
    end
    answers[i - 1] = answer
end
return answers
