"""What the workflows say, in English and Chinese: titles of frames and nodes, and the notes."""

from __future__ import annotations

from flashvideo.loading.published import PUBLISHED, PublishedFile

_PAGES = "https://github.com/comfyui-flashvideo/ComfyUI-FlashVideo/blob/main"
_STAGES, _TEXT = PUBLISHED["stage1"], PUBLISHED["text"]
INTERPOLATOR = PublishedFile("film_net_fp16.safetensors", "Comfy-Org/frame_interpolation", "frame_interpolation")


class Words(str):
    """An English text that knows its Chinese twin."""

    chinese: str

    def __new__(cls, english: str, chinese: str = "") -> Words:
        words = super().__new__(cls, english)
        words.chinese = chinese
        return words


NO_WORDS = Words("")
NOTE = Words("Note", "说明")

# Frames
MODELS = Words("1 · Models", "1 · 模型")
PROMPT = Words("2 · Prompt", "2 · 提示词")
STAGE1 = Words("3 · Stage I: the small video", "3 · 第一阶段：小视频")
LOOK = Words("4 · Look first", "4 · 先看预览")
STAGE2 = Words("5 · Stage II: full resolution", "5 · 第二阶段：完整分辨率")
SAVE = Words("6 · Save", "6 · 保存")
SAVE_COMPARE = Words("6 · Save and compare", "6 · 保存与对比")
YOUR_VIDEO = Words("3 · Your video", "3 · 您的视频")
STAGE2_WINDOWS = Words("4 · Stage II in windows", "4 · 第二阶段（窗口）")
REDUCED = Words("4 · Hide the damage", "4 · 隐去损伤")
RESTORED = Words("5 · Stage II paints it anew", "5 · 第二阶段重新绘制")
A_PART = Words("3 · Your video, a part first", "3 · 您的视频，先试一段")
BETWEEN_FRAMES = Words("5 · To 24 frames a second", "5 · 到每秒 24 帧")
STAGE2_SIXTH = Words("6 · Stage II, every frame", "6 · 第二阶段：每一帧")
FRAMES_AND_SAVE = Words("6 · To 24 frames a second, and save", "6 · 到每秒 24 帧并保存")
SAVE_SEVENTH = Words("7 · Save", "7 · 保存")
STAGE2_OF_FOUR = Words("4 · Stage II", "4 · 第二阶段")
SAVE_FIFTH = Words("5 · Save", "5 · 保存")
PARTS1 = Words("3 · Stage I in parts", "3 · 第一阶段（分步）")
BETWEEN = Words("4 · The way to Stage II", "4 · 通向第二阶段")
PARTS2 = Words("5 · Stage II in parts", "5 · 第二阶段（分步）")
UNDEGRADED = Words("4 · One undegraded latent", "4 · 一个未退化的 Latent")
GRID = Words("5 · Grid", "5 · 网格")

# Nodes
PROMPT_BOX = Words("Prompt", "提示词")
PROMPT_FOR = {
    "Stage I": Words("Prompt for Stage I", "第一阶段的提示词"),
    "Stage II": Words("Prompt for Stage II", "第二阶段的提示词"),
}
SMALL_VIDEO = Words("Decode the small video", "解码小视频")
ITS_FRAMES = Words("Its frames", "它的帧")
RESULT_FRAMES = Words("Frames of the result", "结果的帧")


# Notes. Without `code`: it is blue on the notes' brown in Vue nodes.
def files_note(stages: Words) -> Words:
    """Where the files of some stages come from."""
    return Words(
        "**Files.** The editor lists those that are missing, with a download button for each.\n\n"
        f"- {stages}, VAE: [{_STAGES.repository}]({_STAGES.page})\n"
        f"- T5 v1.1 XXL: [{_TEXT.repository}]({_TEXT.page})\n\n"
        "Put them into models/diffusion_models, models/vae and models/text_encoders, then press R. "
        f"[Which card runs what]({_PAGES}/README.md#which-card-runs-what)",
        "**文件。** 编辑器会列出缺少的文件，每个都有下载按钮。\n\n"
        f"- {stages.chinese}、VAE：[{_STAGES.repository}]({_STAGES.page})\n"
        f"- T5 v1.1 XXL：[{_TEXT.repository}]({_TEXT.page})\n\n"
        "放入 models/diffusion_models、models/vae 和 models/text_encoders，然后按 R。"
        f"[各种显卡能做什么]({_PAGES}/README.md#which-card-runs-what)",
    )


FILES_NOTE = files_note(Words("Stage I, Stage II", "第一阶段、第二阶段"))
STAGE2_FILES_NOTE = files_note(Words("Stage II", "第二阶段"))
TINY_NOTE = Words(
    "**FlashVideo-Tiny, nothing to download.** It comes with the pack, was trained with its training code, and runs on "
    f"any CPU in seconds. It knows [one small world]({_PAGES}/flashvideo/assets/tiny/README.md): shapes that move over "
    "backgrounds.\n\nFor real videos open the template *FlashVideo preview, then refine*.",
    "**FlashVideo-Tiny，无需下载。** 它随节点包附带，由其训练代码训练，在任何 CPU 上几秒即可运行。它只认识"
    f"[一个小世界]({_PAGES}/flashvideo/assets/tiny/README.md)：在背景上移动的图形。\n\n"
    "要生成真实视频，请打开模板 *FlashVideo preview, then refine*。",
)
PROMPT_NOTE = Words(
    "**One prompt for both stages.** Stage II was trained with the kind of motion in front of it (medium motion): the "
    f"node adds it. [Long, detailed prompts]({_PAGES}/docs/generate.md) work best; 226 tokens are read.",
    "**两个阶段共用一个提示词。** 第二阶段训练时在前面加上运动程度（运动适中）：节点会自动添加。"
    f"[长而详细的提示词]({_PAGES}/docs/generate.md)效果最好；读取 226 个词元。请用英文书写。",
)
TINY_WORDS = Words(
    "**One prompt for both stages:** one to three shapes, joined by *and*, each with size, texture, colour and motion, "
    "over a ground.\n\n"
    "- small, large\n- plain, striped, barred, banded\n- red, yellow, green, blue, pink, white\n"
    "- circle, square, triangle, star, cross\n- moves left, moves right, rises, falls down, rests\n"
    "- at night, over the sea, over a meadow, over the desert, before a wall",
    "**两个阶段共用一个提示词：** 用 *and* 连接一到三个图形，每个都有大小、纹理、颜色、形状和运动，最后是背景"
    "（请用英文）：\n\n"
    "- 大小：small, large\n- 纹理：plain, striped, barred, banded\n- 颜色：red, yellow, green, blue, pink, white\n"
    "- 形状：circle, square, triangle, star, cross\n- 运动：moves left, moves right, rises, falls down, rests\n"
    "- 背景：at night, over the sea, over a meadow, over the desert, before a wall",
)
TINY_STAGE1_NOTE = Words(
    "Two tiny previews: seed 1 and seed 2. Small models want less guidance, and the same at every step.",
    "两个很小的预览：种子 1 和种子 2。小模型需要较弱且每步相同的引导。",
)
STAGE1_NOTE = Words(
    "**270p, 49 frames, 51 steps**: what Stage I was trained for and the authors run.",
    "**270p、49 帧、51 步**：第一阶段的训练条件，也是作者的设置。",
)
FOUR_NOTE = Words(
    "**Four previews**: seed, seed + 1, seed + 2, seed + 3, one after another.",
    "**四个预览**：种子、种子 + 1、种子 + 2、种子 + 3，依次生成。",
)
ONE_CLIP_NOTE = Words("The clip that all cells refine.", "所有格子都精修这一个视频。")
GATE_NOTE = Words(
    "**Run** paints the previews and stops here. Press **Refine** under the one you like: only that one goes on, and "
    "Stage I does not run again — not after other workflows, not after a restart.\n\n"
    "Change the prompt or the seed, and the next Run makes new previews.",
    "**运行**会生成预览并停在这里。在喜欢的预览下按**精修**：只有它继续，第一阶段不会再运行——"
    "运行过其他工作流或重启之后也是如此。\n\n修改提示词或种子后，下次运行会生成新的预览。",
)
SAVE_NOTE = Words(
    "**Decode to Video** is lazy: Save Video writes the file chunk by chunk, so host memory stays small at any length.",
    "**解码为视频**是惰性的：Save Video 逐段写入文件，因此无论多长，内存占用都很小。",
)
SAVE_LAZY_NOTE = Words(
    "**Run**: Save Video asks for one frame after another, and Refine Video makes them. The node shows how far it is, "
    "and about how long it will take.",
    "**运行**：Save Video 逐帧索取，精修视频逐帧生成。节点会显示进度和大约剩余的时间。",
)
COMPARE_NOTE = Words(
    f"{SAVE_NOTE}\n\n**Compare**: move the pointer over it to wipe between before and after. It holds all frames in "
    "memory; delete it for long or 4K videos.",
    f"{SAVE_NOTE.chinese}\n\n**对比**：移动指针即可在之前与之后之间滑动。它把所有帧保存在内存中；"
    "长视频或 4K 视频请删除它。",
)
DESCRIBE_NOTE = Words(
    f"Describe what [your video]({_PAGES}/docs/refine.md) shows, in detail.",
    f"请用英文详细描述[您的视频]({_PAGES}/docs/refine.md)的内容。",
)
ANY_VIDEO_NOTE = Words(
    "Any video, of any size and length. Its audio and frame rate are kept. A drawn one is there for a first try.",
    "任何尺寸与长度的视频。音频与帧率会保留。已附带一个绘制的视频供首次尝试。",
)
REFINE_VIDEO_NOTE = Words(
    "**Refine Video** works while Save Video writes: windows of 13 latents (49 frames) go through Stage II and are "
    "joined at every step, so memory does not grow with length.\n\nNoise step: less keeps closer to the video, more "
    "paints more anew. *crop* keeps the proportions, *x2* the shape.",
    "**精修视频**在 Save Video 写入时工作：每 13 个 Latent 帧（49 帧）为一个窗口通过第二阶段，并在每一步拼合，"
    "因此内存不随长度增长。\n\n噪声步：越小越接近原视频，越大重新绘制得越多。*crop* 保持比例，*x2* 保持形状。",
)
FOUR_K_NOTE = Words(
    "**Attention Windows** confines attention to 960x544 pixels, with the whole frame in coarse: 6.6 times less work "
    "at 4K than between all pixels.\n\n**Sizes.** The default window is a quarter of 1080p; for upright videos "
    "exchange width and height. Best from 1080p: Stage II was trained to enlarge by 4, from 270p it would be 8.\n\n"
    "**Cost.** About six times that of 1080p in the same windows.",
    "**注意力窗口**把注意力限制在 960x544 像素内，并粗略看到整个画面：4K 下的计算量比所有像素之间少 6.6 倍。\n\n"
    "**尺寸。** 默认窗口为 1080p 的四分之一；竖屏视频请交换宽与高。最好从 1080p 开始：第二阶段的训练是放大 4 倍，"
    "从 270p 开始则是 8 倍。\n\n**开销。** 约为同样窗口下 1080p 的六倍。",
)
FOUR_K_SAVE_NOTE = Words(
    "Frames are decoded in exact tiles and written as they come: no seams. What the VAE works in is set by *memory* on "
    f"Refine Video. [Low memory]({_PAGES}/docs/low-memory.md)",
    "帧以精确的分块解码并随即写入：没有接缝。VAE 使用的内存由精修视频上的*内存*设定。"
    f"[低内存]({_PAGES}/docs/low-memory.md)",
)
RESTORE_NOTE = Words(
    "**Old or damaged footage**: noise, blocks of compression, scratches. Its audio and frame rate are kept. A drawn "
    "video is there for a first try.",
    "**老旧或受损的影像**：噪点、压缩块、划痕。音频与帧率会保留。已附带一个绘制的视频供首次尝试。",
)
REDUCE_NOTE = Words(
    "**Half the size first.** Averaging hides what is damaged, and Stage II was trained to paint back what reducing "
    "took away. Set 1 for clean footage, less for worse. The small frames are all held in memory.",
    "**先缩小一半。** 取平均可隐去损伤，而第二阶段的训练正是补回缩小所失去的细节。干净的影像设为 1，更差的设得更小。"
    "所有小帧都保存在内存中。",
)
RESTORED_NOTE = Words(
    "**Noise step 700**: more is painted anew than usual. Colours stay those of the footage; *match colors* 0 leaves "
    "them to Stage II.\n\nThe longer side follows the footage's shape.",
    "**噪声步 700**：比通常重新绘制得更多。颜色保持影像原样；*颜色匹配*为 0 则交给第二阶段。\n\n长边按影像的形状计算。",
)
LONG_NOTE = Words(
    "**A part first.** Trim Video takes five seconds: try settings on them, then set *duration* to 0 for all of it. A "
    "run tells how long it will still take.",
    "**先试一段。** Trim Video 截取五秒：在其上尝试设置，然后把 *duration* 设为 0 处理全部。运行时会显示还需多久。",
)
LONG_WINDOWS_NOTE = Words(
    "**Windows in time** are in Refine Video: 49 frames at once, joined at every step. There are no segments whose "
    "borders could show, and memory does not grow with length.\n\n**Attention Windows** makes it 2.6 times less work "
    "at 1080p; leave it out for attention as it was trained.",
    "**时间窗口**在精修视频之内：每次 49 帧，并在每一步拼合。没有会露出边界的分段，内存也不随长度增长。\n\n"
    "**注意力窗口**使 1080p 的计算量减少到 2.6 分之一；若要训练时的注意力，请去掉它。",
)
INTERPOLATE_NOTE = Words(
    "**Between the frames.** Core's interpolation node makes two new frames between each two of the *small* video: "
    "cheap, and Stage II then paints detail into every one.\n\nIts model: "
    f"[{INTERPOLATOR.name}]({INTERPOLATOR.page}), into models/frame_interpolation.",
    "**在帧之间。** 官方的插帧节点在*小*视频的每两帧之间生成两个新帧：开销很小，随后第二阶段为每一帧绘制细节。\n\n"
    f"所需模型：[{INTERPOLATOR.name}]({INTERPOLATOR.page})，放入 models/frame_interpolation。",
)
EVERY_FRAME_NOTE = Words(
    "**Three times as many frames** go through Stage II, in four windows instead of one: four times the time. In a "
    "hurry? Open the template *FlashVideo 24 fps after refining*.",
    "**三倍的帧**通过第二阶段，用四个窗口而不是一个：四倍的时间。赶时间？请打开模板 "
    "*FlashVideo 24 fps after refining*。",
)
INTERPOLATE_AFTER_NOTE = Words(
    "**Between the refined frames.** No more work for Stage II, but what lies between is interpolated, in detail too. "
    "All frames are held in memory, at 1080p 25 MB each.\n\nIts model: "
    f"[{INTERPOLATOR.name}]({INTERPOLATOR.page}), into models/frame_interpolation.",
    "**在精修后的帧之间。** 第二阶段无需更多计算，但中间的画面连同细节都是插值得到的。所有帧都保存在内存中，"
    "1080p 时每帧 25 MB。\n\n"
    f"所需模型：[{INTERPOLATOR.name}]({INTERPOLATOR.page})，放入 models/frame_interpolation。",
)
CORE_NOTE = Words(
    "**The same with core's sampler nodes**: SamplerCustomAdvanced, RandomNoise and CFGGuider with our sigmas. Other "
    "packs' guiders, samplers and model patches fit in here.",
    "**用官方采样节点完成同样的工作**：SamplerCustomAdvanced、RandomNoise 和 CFGGuider，配合我们的 Sigmas。"
    "其他节点包的引导器、采样器和模型补丁可接在这里。",
)
BETWEEN_NOTE = Words(
    "No Latent Degradation here: the model's own sampling mixes RandomNoise into the plain latent, at the step that "
    "**Stage II Noise Step** sets.",
    "这里不需要 Latent 退化：模型自己的采样会按**第二阶段噪声步**设定的步把 RandomNoise 混入原始 Latent。",
)
UNDEGRADED_NOTE = Words(
    "The grid degrades it itself, with the same noise for every cell.",
    "网格会自行退化它，每个格子使用相同的噪声。",
)
GRID_NOTE = Words(
    "Each list is tried against each other: 3 steps × 2 CFG × 1 noise step = 6 cells, a labelled sheet.",
    "各列表相互组合：3 种步数 × 2 种 CFG × 1 种噪声步 = 6 格，生成一张带标注的图。",
)


def stage2_note(noise_step: int, more: Words = NO_WORDS) -> Words:
    """What Stage II does, at a noise step."""
    return Words(
        "**Four steps to full resolution.** The small video is stretched to the target and encoded, mixed with noise "
        f"(step {noise_step}), and refined. More noise gives Stage II more freedom, less keeps closer to the small "
        f"video.{more}",
        f"**四步到达完整分辨率。** 小视频被放大到目标尺寸并编码，混入噪声（第 {noise_step} 步），然后精修。噪声越多，"
        f"第二阶段越自由；越少则越接近小视频。{more.chinese}",
    )
