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

-- The last error of a script, and where it was raised: the innermost function that is the script's own. In one table, which the
-- server reads: there may be no memory for another.
local explained = {}

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
    explained.text, explained.source, explained.line = text, info and info.source, info and info.currentline
    explained.object = type(value) == "userdata" and value or nil
    return explained
end

-- Libraries of functions. While one is loaded it sees little of the server and nothing of Lua's libraries; its functions
-- see what scripts see. Both by the same table, because what is compiled keeps its globals.
local setfenv, next, select, error = setfenv, next, select, error
local lower, find = string.lower, string.find
local registered

local function fail(text)
    error({ err = "ERR " .. text })
end

local function text_of(value)
    local kind = type(value)
    if kind == "string" or kind == "number" then
        return tostring(value)
    end
end

local function flags_of(list)
    local flags, place = {}, 1
    while list[place] ~= nil do
        local flag = text_of(list[place])
        flag = flag and lower(flag)
        if not flag or not host.flags[flag] then
            fail("unknown flag given")
        end
        flags[flag] = true
        place = place + 1
    end
    return flags
end

-- What redis.register_function is told by name.
local named = {
    function_name = function(row, value)
        row.name = text_of(value)
            or fail("function_name argument given to redis.register_function must be a string")
    end,
    description = function(row, value)
        row.description = text_of(value)
            or fail("description argument given to redis.register_function must be a string")
    end,
    callback = function(row, value)
        if type(value) ~= "function" then
            fail("callback argument given to redis.register_function must be a function")
        end
        row.callback = value
    end,
    flags = function(row, value)
        if type(value) ~= "table" then
            fail("flags argument to redis.register_function must be a table representing function flags")
        end
        row.flags = flags_of(value)
    end,
}

local function named_row(arguments)
    if type(arguments) ~= "table" then
        fail("calling redis.register_function with a single argument is only applicable to Lua table "
            .. "(representing named arguments).")
    end
    local row = { flags = {} }
    for key, value in next, arguments do
        key = text_of(key) or fail("named argument key given to redis.register_function is not a string")
        local take = named[lower(key)] or fail("unknown argument given to redis.register_function")
        take(row, value)
    end
    if not row.name then
        fail("redis.register_function must get a function name argument")
    end
    if not row.callback then
        fail("redis.register_function must get a callback argument")
    end
    return row
end

local function register(...)
    if not registered then
        fail("redis.register_function can only be called on FUNCTION LOAD command")
    end
    local count = select("#", ...)
    local name, callback = ...
    local row
    if count == 1 then
        row = named_row(name)
    elseif count == 2 then
        name = text_of(name) or fail("first argument to redis.register_function must be a string")
        if type(callback) ~= "function" then
            fail("second argument to redis.register_function must be a function")
        end
        row = { name = name, callback = callback, flags = {} }
    else
        fail("wrong number of arguments to redis.register_function")
    end
    if not find(row.name, "^[%w_]+$") then
        fail("Library names can only contain letters, numbers, or underscores(_) and must be at least one character long")
    end
    for _, other in ipairs(registered) do
        if other.name == row.name then
            fail("Function already exists in the library")
        end
    end
    registered[#registered + 1] = row
end

local loading_redis = { register_function = register }
for _, name in ipairs({
    "log", "LOG_DEBUG", "LOG_VERBOSE", "LOG_NOTICE", "LOG_WARNING", "REDIS_VERSION", "REDIS_VERSION_NUM",
}) do
    loading_redis[name] = host.redis[name]
end
local missing = { __index = host.missing }
local loading = setmetatable({ redis = protect(setmetatable(loading_redis, missing)) }, missing)
local view = { __index = allowed, __newindex = host.refuse, __metatable = protect({}) }
local library_globals = setmetatable({}, view)
protected[library_globals] = allowed

-- Runs a library's code; returns the functions that it registers, or nil and why it failed.
local function load_library(chunk)
    registered, view.__index = {}, loading
    local found = registered
    local succeeded, problem = xpcall(setfenv(chunk, library_globals), explain)
    registered, view.__index = nil, allowed
    if succeeded then
        return found
    end
    return nil, problem.text
end

-- What is compiled from here on, by the server or by a script, has these globals.
setfenv(0, globals)
return explain, allowed, explained, load_library
