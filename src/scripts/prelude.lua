-- What a script may see and touch. Run once in each new interpreter, with the whole of Lua's libraries around it, the functions
-- of the server, functions that take the place of Lua's own, and the table that says which real table a protected one stands for.
local host, base, patterns, protected = ...

local getinfo = debug.getinfo
local setmetatable, tostring, type, xpcall = setmetatable, tostring, type, xpcall
local collectgarbage = collectgarbage
local rawget = rawget
local getmetatable = debug.getmetatable

-- An empty table before the real one: reads go through, writes are refused.
local function protect(real, metatable)
    local proxy = setmetatable({}, {
        __index = real,
        __newindex = host.refuse,
        __metatable = metatable or false,
    })
    protected[proxy] = real
    return proxy
end

-- The functions and libraries that scripts have.
local allowed = {}
for _, name in ipairs({
    "_VERSION", "assert", "error", "gcinfo", "getmetatable", "ipairs", "rawequal", "select",
    "tonumber", "tostring", "type", "unpack",
}) do
    allowed[name] = _G[name]
end
for name, value in pairs(base) do
    allowed[name] = value
end

-- One script must not stop the collector for all that follow.
function allowed.collectgarbage(option, ...)
    if option == "stop" or option == "restart" or option == "setpause" or option == "setstepmul" then
        return 0
    end
    return collectgarbage(option, ...)
end

for name, bounded in pairs(patterns) do
    string[name] = bounded
end
math.random, math.randomseed = host.random, host.randomseed
allowed.math = protect(math)
allowed.table = protect(table)
allowed.coroutine = protect(coroutine)
allowed.string = protect(string)
allowed.os = protect({ clock = os.clock })
allowed.redis = protect(host.redis)
for name, library in pairs(host.libraries) do
    allowed[name] = protect(library)
end

-- All strings share one metatable.
getmetatable("").__metatable = protect({ __index = allowed.string })

setmetatable(allowed, { __index = host.missing })
local globals = protect(allowed, protect({}))
allowed._G = globals

-- Where an error was raised: the innermost function that is the script's own.
local function explain(value)
    local level, info = 2, nil
    repeat
        info = getinfo(level, "Sl")
        level = level + 1
    until not info or (info.what ~= "C" and info.what ~= "tail" and info.source ~= "=corelane")
    local text
    if type(value) == "table" then
        text = rawget(value, "err")
        if type(text) == "number" then
            text = tostring(text)
        end
    else
        text = "ERR " .. tostring(value)
    end
    return { text = text, source = info and info.source, line = info and info.currentline }
end

local function run(script)
    return xpcall(script, explain)
end

-- What is compiled from here on, by the server or by a script, has these globals.
setfenv(0, globals)
return run, allowed
