import { words } from '../../i18n/language';

const en = {
  title: 'Settings',

  'open.title': 'This server is open to the network without a token',
  'open.text':
    'Whoever can reach this address may use the models and read and change the data in the home folder. '
    + 'Start it without --insecure-open, and it asks everybody to log in:',

  who: 'Who you are',
  'who.admin': 'admin',
  'who.member': 'member',
  'who.named': 'You have logged in. Members see what they made; admins see what everybody made.',
  'who.local': 'This server wants no token: whoever reaches it acts as the admin "local".',
  'who.v1': 'Logging in is needed only for the paths under /api/v1.',
  'who.carries': 'You have logged in for the paths under /api/v1, which always want it.',
  'who.kept': 'A login is kept in this tab alone and ends with it.',
  'who.enter': 'Log in…',
  'who.leave': 'Log out',

  looks: 'Language and theme',
  language: 'Language',
  theme: 'Theme',
  'theme.light': 'Light',
  'theme.dark': 'Dark',
  'theme.auto': 'System',
  'looks.kept': 'Kept in this browser.',

  people: 'Users and API keys',
  'people.how': 'Users and keys are made in a terminal on the server’s machine, so that no request can make somebody an admin. '
    + 'What is changed holds at once, without starting the server again.',
  'people.add': 'Add a user (without --admin a member); the password is asked for',
  'people.list': 'List users',
  'people.passwd': 'Change a password; logins of that user end',
  'people.disable': 'Let a user in no more',
  'keys.create': 'Make an API key for a program; it is shown once',
  'keys.list': 'List API keys',
  'keys.revoke': 'Revoke an API key',

  server: 'This server',
  'server.version': 'Version',
  'server.address': 'Address',
  'server.home': 'Home folder',
  'server.access': 'Access',
  'access.token': 'Everybody has to log in',
  'access.local': 'No token; only this machine can reach it',
  'access.open': 'No token, open to the network',
  docs: 'What it speaks',
  'docs.token': 'The descriptions want a token too, for example: curl -H "Authorization: Bearer KEY" …/openapi.json',
};

export type Key = keyof typeof en;

const zh: Record<Key, string> = {
  title: '设置',

  'open.title': '此服务器对网络开放，且不要求令牌',
  'open.text':
    '任何能连接到此地址的人都可以使用模型、读取和修改主目录中的数据。去掉 --insecure-open 重新启动，即要求所有人登录：',

  who: '当前身份',
  'who.admin': '管理员',
  'who.member': '成员',
  'who.named': '您已登录。成员只能看到自己的记录，管理员可以看到所有人的记录。',
  'who.local': '此服务器不要求令牌：连接到它的任何人都以管理员“local”的身份操作。',
  'who.v1': '只有 /api/v1 下的接口需要登录。',
  'who.carries': '您已登录，可使用 /api/v1 下的接口（它们始终要求登录）。',
  'who.kept': '登录状态只保存在此标签页中，关闭即失效。',
  'who.enter': '登录……',
  'who.leave': '退出登录',

  looks: '语言与主题',
  language: '语言',
  theme: '主题',
  'theme.light': '浅色',
  'theme.dark': '深色',
  'theme.auto': '跟随系统',
  'looks.kept': '保存在此浏览器中。',

  people: '用户与 API 密钥',
  'people.how': '用户与密钥需在服务器所在机器的终端中管理，任何网络请求都不能把人变成管理员。修改立即生效，无需重启服务器。',
  'people.add': '添加用户（不加 --admin 则为成员）；密码会在终端中询问',
  'people.list': '列出用户',
  'people.passwd': '更换密码；该用户的登录随之失效',
  'people.disable': '停用用户',
  'keys.create': '为程序创建 API 密钥，只显示一次',
  'keys.list': '列出 API 密钥',
  'keys.revoke': '撤销 API 密钥',

  server: '此服务器',
  'server.version': '版本',
  'server.address': '地址',
  'server.home': '主目录',
  'server.access': '访问控制',
  'access.token': '所有人都需登录',
  'access.local': '不要求令牌；只有本机能访问',
  'access.open': '不要求令牌，对网络开放',
  docs: '接口说明',
  'docs.token': '接口说明同样需要令牌，例如：curl -H "Authorization: Bearer 密钥" …/openapi.json',
};

export const useSay = words<Key>(en, zh);
