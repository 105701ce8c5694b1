"""Sentences of Chinese messages, for `held_out.py`, as in `english.py`; numbers touch the characters around them."""

from __future__ import annotations

from tests.rlhf_envs.privacy.parts.scenes import Scene

SERVICE = (
    "{body}",
    "{body}",
    "客户：{body}\n客服：好的，请稍等，我帮您查一下。",
    "客服：您好，请问有什么可以帮您？\n客户：{body}",
    "工单编号：GD2024{no:small}3{no:small}\n创建时间：{no:stamp}\n{body}",
    "主题：回复：您的咨询\n\n您好，\n\n{body}\n\n此致\n敬礼",
    "【{no:day_zh} {no:hour_zh}】{body}",
    "亲，{body}谢谢～",
)
FORUM = (
    "{body}",
    "{body}",
    "{no:chat_zh}：{body}",
    "楼主发表于{no:day_zh}\n{body}",
    "回复3楼：{body}",
    "{body}（转自群聊）",
)

SHOP = Scene(
    frames=(*SERVICE, "订单确认\n订单号：{no:order_zh}\n商品：保温杯{no:measure_zh} x2\n实付：{no:price_zh}\n{body}"),
    opening=(
        "你好，我的快递还没收到。", "上周买的电饭煲坏了，想退货。", "请问退款什么时候到账？", "为什么扣了我两次钱？",
        "您好！咨询一下发票的事。", "第三次来问了……",
    ),
    private=(
        "我的电话是{phone:cn}，下午都在。", "请打{phone:cn}联系我。", "手机号{phone:cn}，微信同号。",
        "收货人电话：{phone:cn}", "有事打我手机{phone:cn}或者座机{phone:land}。",
        "手机：{phone:cn}，邮箱：{email:zh}。", "发票发到{email:zh}就行。", "我的邮箱{email:zh}收不到验证邮件。",
        "退款请退到银行卡{card:zh}。", "卡号{card:zh}，开户行是建设银行。", "我用的是信用卡（{card}）付的款。",
        "座机{phone:land}没人接。", "快递员让我打{phone:cn}找他，打不通。",
        "联系人电话{phone:cn}和{phone:cn}都可以。", "账号是{email:zh}，密码{key:password}，你们自己看吧。",
        "收件信息：上海市徐汇区某路12弄3号，{phone:cn}", "我手机号换成{phone:cn}了，原来的不用了。",
        "（电话：{phone:zh}）", "用{phone:cn}这个号注册的。", "退到这张卡：{card:zh}",
        "客服：请问您的手机号是多少？\n客户：{phone:cn}", "客服：麻烦提供一下邮箱。\n客户：{email:zh}",
    ),
    public=(
        "订单号{no:order_zh}，{no:day_zh}下的单。", "快递单号是{no:tracking_zh}，一直没更新。",
        "实付{no:price_zh}，优惠了{no:percent}。", "尺寸是{no:measure_zh}的，和页面上不一样。",
        "尾号{no:ending}的卡被扣了两次。", "邮编{no:post_zh}。", "机身序列号{no:serial}。",
        "说好的{no:hour_zh}前送到。", "双11买的，第2件半价。", "打12315投诉有用吗？", "链接{no:url}打不开。",
        "我忘记密码了，验证码也收不到。", "发票号码{no:order_zh}。", "一共{no:small}件，少了1件。",
        "满300减50，为什么只减了20？", "已经等了15天了！",
    ),
)  # fmt: skip

BANK = Scene(
    frames=SERVICE,
    opening=(
        "您好，我要更新开户资料。", "有一笔交易不是我本人操作的。", "转账一直显示处理中。", "请问提前还款怎么算？",
        "我想办理公积金提取。", "实名认证一直通不过。",
    ),
    private=(
        "身份证号{national_id:cn}。", "我的身份证号码是{national_id:cn}，请核实。",
        "身份证：{national_id:cn}，手机：{phone:cn}", "证件号码{national_id:cn}已经上传了。",
        "持卡人身份证{national_id:cn}卡号{card:zh}。", "银行卡号：{card:zh}", "请把{card:zh}这张卡挂失。",
        "转到{card:zh}了，不是{card:zh}。", "收款卡号{card:zh}，金额{no:price_zh}。", "国外账户IBAN是{iban}。",
        "欧洲那边的账号：{iban}，欧元。", "Visa卡{card}，有效期{no:expiry}。", "预留手机号{phone:cn}停用了。",
        "电子账单发到{email:zh}。", "有人用{ip}登录过我的账户。", "客户经理的座机{phone:land}。",
        "我爱人的身份证号{national_id:cn}也登记一下。", "登录IP：{ip}，不是我常用的。",
        "网银登录密码是{key:password}，帮我看看。", "汇款到德国，IBAN：{iban}",
        "客服：请输入您的身份证号。\n客户：{national_id:cn}", "姓名,手机,身份证\n王某,{phone:cn},{national_id:cn}",
        "客服：请问退到哪张卡？\n客户：{card:zh}",
    ),
    public=(
        "金额是{no:price_zh}，不是{no:price_zh}。", "利率从{no:percent}降到{no:percent}。",
        "交易流水号{no:order_zh}。", "我持有{no:stock_zh}两百股。", "{no:day_zh}到期，期限36个月。",
        "卡片尾号{no:ending}没问题。", "公司统一社会信用代码{no:credit}。", "网点{no:hour_zh}关门。",
        "身份证有效期到{no:day_zh}。", "请勿把密码告诉他人。", "客服说要等3-5个工作日。", "回单编号：{no:serial}",
        "身份证号共18位，最后一位可能是X。", "每月还款{no:price_zh}，共240期。",
    ),
)  # fmt: skip

OPS = Scene(
    frames=("{body}", "{body}", "{body}\n大家遇到过吗？", "工单：{no:uuid}\n{body}", "日志如下：\n{body}"),
    opening=(
        "服务又挂了，日志如下：", "接口一直返回401。", "求助，连不上服务器。", "这是我的配置：",
        "昨晚发布之后就这样了。", "部署脚本报错：",
    ),
    private=(
        "服务器IP是{ip}，端口2222。", "从{ip}访问超时。", "已封禁{ip}和{ip}。", "api_key={key:secret}",
        "密钥是{key}，还是报403。", "token：{key}", "密码：{key:password}", "数据库密码是{key:password}，别外传。",
        "AWS_SECRET_ACCESS_KEY={key:secret}", "Authorization: Bearer {key:jwt}",
        '{no:stamp} ERROR 登录失败 ip={ip} user={email:zh}', "我不小心把{key}提交到仓库了。", "值班电话{phone:cn}。",
        "报警邮件发给{email:zh}。", "公网地址（{ip}）能ping通。", "源地址{ip:6}被拒绝。",
        '"client_secret": "{key:secret}",', "root密码{key:password}已经改了。",
        "运维手机：{phone:cn}，座机：{phone:land}", "解析到{ip:4}，IPv6是{ip:6}。",
        '{"mobile": "{phone:cn}", "email": "{email:zh}", "ip": "{ip}"}',
    ),
    public=(
        "提交{no:hash}有问题，回滚到{no:hash}。", "镜像{no:sha}", "我们用的是{no:build}。", "请求ID：{no:uuid}",
        "{no:stamp} INFO 启动完成，耗时3.214秒", "api_key={no:placeholder}", "密码：{no:placeholder}",
        "时间戳{no:epoch}对不上。", "CPU到了{no:percent}。", "文档见{no:repo}", "参考手册{no:section}节。",
        "报错在{no:code}这一行。", "trace={no:trace}", "密码至少12位，含大小写。", "背景色{no:colour}。",
        "备案号{no:icp}。", "第1042行第17列报错。", "QPS从1200涨到35000。",
    ),
)  # fmt: skip

LIFE = Scene(
    frames=FORUM,
    opening=(
        "有人一起拼车吗？", "出一辆自行车，九成新。", "读书会通知：", "周末爬山，欢迎报名！", "新人报到～",
        "求推荐一本书。", "班级群通知：",
    ),
    private=(
        "报名请联系{phone:cn}。", "有意者电话{phone:cn}，非诚勿扰。", "邮箱{email:zh}，欢迎来信。",
        "投稿发{email:zh}，截止{no:day_zh}。", "订票要用身份证号：{national_id:cn}。", "我的号码是{phone:cn}，加我。",
        "领队：{phone:cn}；副领队：{phone:cn}。", "房东电话{phone:zh}，说明来意即可。", "爱心捐款账号{card:zh}。",
        "买保险用的身份证{national_id:cn}，帮我填一下。", "WiFi密码：{key:password}", "旧手机{phone:cn}不用了。",
        "联系方式{phone:cn}（同微信）", "到了打{phone:land}叫前台。",
        "同行人{national_id:cn}、{national_id:cn}，两张票。",
    ),
    public=(
        "坐{no:train_zh}，{no:hour_zh}到。", "票价{no:price_zh}。", "今天读{no:book_zh}。", "书号ISBN {no:isbn}。",
        "全程14.2公里，海拔1150米。", "集合时间{no:day_zh} {no:hour_zh}。", "定位{no:place}附近。",
        "{no:stock_zh}今天跌了{no:percent}。", "1998年出生的都来！", "活动编号{no:slug}。", "有急事打110或120。",
        "{no:chat_zh}记得签到。", "身高175cm，体重68公斤。", "限{no:small}人，先到先得。",
        "3室2厅1卫，月租{no:price_zh}。", "车牌尾号限行4和9。", "我国人口约14.1亿。", "单词书第112-148页。",
    ),
)  # fmt: skip

TRADITIONAL = Scene(
    frames=("{body}", "{body}", "客服您好：\n{body}\n謝謝", "樓主：{body}", "【{no:day_zh}】{body}"),
    opening=(
        "您好，請問訂單何時出貨？", "想更改訂位時間。", "請問可以開收據嗎？", "版上的大家好，", "包裹好像寄丟了。",
    ),
    private=(
        "我的手機是{phone:tw}。", "請撥{phone:tw}聯絡我。", "電話：{phone:hk}", "香港電話{phone:hk}，可用WhatsApp。",
        "信箱是{email:zh}。", "請寄到{email:zh}，謝謝。", "信用卡號{card}，到期日{no:expiry}。",
        "聯絡電話{phone:tw}，{email:zh}", "內地手機{phone:cn}也可以。", "匯款帳號IBAN：{iban}",
        "來源IP位址{ip}很可疑。", "密碼：{key:password}",
    ),
    public=(
        "訂單編號{no:order_zh}。", "總共NT$1,280，運費60元。", "{no:day_zh} {no:hour_zh}到店。", "統一編號要怎麼填？",
        "地址在中山路二段34號5樓，郵遞區號104。", "第3頁第2行有錯字。", "包裹號碼{no:tracking_zh}。",
        "身高175cm，體重68公斤。", "折扣{no:percent}。", "忘記密碼了。", "網址{no:url}打不開。",
    ),
)  # fmt: skip

SCENES = (SHOP, BANK, OPS, LIFE, TRADITIONAL)
